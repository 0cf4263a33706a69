# Nodes of a cluster, and jobs of a CI. With CUDA, which is in torch's wheels:
#   docker build --tag spips:cuda .
# For CPUs only, with the address of PyTorch's wheels for CPUs:
#   docker build --tag spips:cpu --build-arg TORCH_INDEX=https://... .
FROM python:3.11-slim-bookworm

# torch compiles kernels with g++. KubeRay asks nodes by wget whether they are well.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ wget \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=
# Such as [mlflow,video].
ARG EXTRAS=
WORKDIR /opt/spips
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url="$TORCH_INDEX"} ".$EXTRAS"

RUN useradd --create-home --uid 1000 spips
# The number, which Kubernetes' runAsNonRoot needs.
USER 1000
# Libraries of the driver that the container gets from its host.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["spips", "--help"]
