#!/usr/bin/env bash
# A real S3 server for the tests marked `s3`: Ceph with its RADOS gateway, one node, on 127.0.0.1.
#
#   .ci/s3_gateway.sh start FOLDER   serve, and write FOLDER/env (source it) with address and keys
#   .ci/s3_gateway.sh restart FOLDER kill the gateway, not what it stores, and serve again after DOWN_S seconds
#   .ci/s3_gateway.sh stop FOLDER    end what start began there and remove its files
#
# moto answers as its authors expect S3 to; Ceph answers as a store does that people run.
set -euo pipefail

PACKAGES=(radosgw ceph-mon ceph-osd ceph-mgr ceph-common)
PROGRAMS=(radosgw radosgw-admin ceph-mon ceph-osd ceph-mgr ceph ceph-authtool monmaptool)
WAIT_S=60
MARK=.s3_gateway

fail() { # MESSAGE [LOG...]
    echo "s3_gateway: $1" >&2
    [[ $# -eq 1 ]] || cat -- "${@:2}" 2>/dev/null | tail -n 15 >&2
    exit 1
}

install_missing() {
    local program missing=()
    for program in "${PROGRAMS[@]}"; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    [[ $EUID -eq 0 ]] || fail "expected ${missing[*]}, or root to install ${PACKAGES[*]}"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update; apt-get install --yes --no-install-recommends "${PACKAGES[@]}"; } \
        </dev/null >log/apt 2>&1 || fail "apt-get could not install Ceph:" log/apt
}

random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# Ports that nobody listens on; all are held until all are found, so that they differ.
free_ports() {
    python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in held))'
}

write_config() { # FSID MONITOR_PORT GATEWAY_PORT
    cat >ceph.conf <<CONF
[global]
fsid = $1
mon host = v2:127.0.0.1:$2
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = $folder/keyring
run dir = $folder
log file = $folder/log/\$name
# Its path may be longer than a socket's name can be, and nobody asks a daemon anything.
admin socket =
# One disk holds the only copy of an object.
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
# The gateway makes its pools while the first requests wait for them.
osd pool default pg num = 1
osd pool default pg autoscale mode = off
# Build machines' disks are often fuller than a monitor puts up with.
mon data avail warn = 2
mon data avail crit = 1
[mon]
mon data = $folder/mon
[mgr]
mgr data = $folder/mgr
mgr initial modules =
[osd]
osd data = $folder/osd
osd objectstore = memstore
memstore device bytes = 2147483648
[client.gateway]
rgw data = $folder/gateway
rgw frontends = beast endpoint=127.0.0.1:$3
CONF
}

make_key() { # NAME [SERVICE CAPABILITY]...
    local name=$1 caps=()
    shift
    while [[ $# -gt 0 ]]; do
        caps+=(--cap "$1" "allow $2")
        shift 2
    done
    ceph-authtool keyring --gen-key --name "$name" "${caps[@]}" >/dev/null
}

begin() { # NAME COMMAND...: run a daemon that outlives this script, and note its process id
    local name=$1
    shift
    setsid "$@" </dev/null >"log/$name.out" 2>&1 &
    echo $! >"$name.pid"
    disown # else bash tells of its end
}

answers() { # PORT: does it speak HTTP?
    local line
    { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    printf 'GET / HTTP/1.0\r\n\r\n' >&3
    read -r -t 5 line <&3 || line=
    exec 3>&-
    [[ $line == HTTP/* ]]
}

wait_for_gateway() { # PORT
    local started_s=$SECONDS
    until answers "$1"; do
        kill -0 "$(<gateway.pid)" 2>/dev/null ||
            fail "the gateway ended:" log/gateway.out log/client.gateway
        ((SECONDS - started_s < WAIT_S)) ||
            fail "no answer in $WAIT_S s:" log/gateway.out log/client.gateway
        sleep 0.2
    done
}

start() {
    local fsid monitor_port gateway_port access_key secret_key
    umask 077
    mkdir -p "$folder"
    cd "$folder"
    [[ -z $(ls -A) ]] || fail "expected an empty folder, got files in $folder"
    touch "$MARK"
    trap '[[ -f env ]] || stop' EXIT
    mkdir log mon mgr osd gateway
    install_missing
    fsid=$(</proc/sys/kernel/random/uuid)
    read -r monitor_port gateway_port < <(free_ports)
    write_config "$fsid" "$monitor_port" "$gateway_port"
    local conf=(--conf "$folder/ceph.conf")

    ceph-authtool --create-keyring keyring >/dev/null
    make_key mon. mon '*'
    make_key client.admin mon '*' mgr '*' osd '*'
    make_key client.gateway mon '*' mgr '*' osd '*'
    make_key mgr.a mon 'profile mgr' osd '*'
    make_key osd.0 mon 'profile osd' mgr 'profile osd' osd '*'
    monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$monitor_port]" monmap >/dev/null

    ceph-mon "${conf[@]}" --mkfs --id a --monmap monmap --keyring keyring >log/mkfs 2>&1 ||
        fail "the monitor's folder could not be made:" log/mkfs
    begin mon ceph-mon "${conf[@]}" --foreground --id a
    begin mgr ceph-mgr "${conf[@]}" --foreground --id a
    timeout "$WAIT_S" ceph "${conf[@]}" osd new "$fsid" 0 >log/new 2>&1 ||
        fail "the monitor does not answer:" log/mon.a
    timeout "$WAIT_S" ceph-osd "${conf[@]}" --mkfs --id 0 --osd-uuid "$fsid" >log/mkfs 2>&1 ||
        fail "the disk could not be made:" log/mkfs
    begin osd ceph-osd "${conf[@]}" --foreground --id 0
    begin gateway radosgw "${conf[@]}" --foreground --name client.gateway

    wait_for_gateway "$gateway_port"
    access_key=$(random_hex 10) secret_key=$(random_hex 20)
    timeout "$WAIT_S" radosgw-admin "${conf[@]}" user create --uid=tests --display-name=tests \
        --access-key="$access_key" --secret-key="$secret_key" >log/user 2>&1 ||
        fail "the S3 user could not be made:" log/user
    cat >env <<ENV
export SPIPS_TEST_S3_ENDPOINT=http://127.0.0.1:$gateway_port
export SPIPS_TEST_S3_ACCESS_KEY=$access_key
export SPIPS_TEST_S3_SECRET_KEY=$secret_key
ENV
    echo "s3_gateway: serving at 127.0.0.1:$gateway_port; its address and keys are in $folder/env"
}

is_ours() { # PID: the number may have gone to another process since it was noted
    [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline") == *" $folder/ceph.conf "* ]]
} 2>/dev/null

restart() {
    local pid port
    [[ -f $folder/$MARK ]] || fail "expected a folder that start made, got $folder"
    cd "$folder"
    pid=$(<gateway.pid)
    while is_ours "$pid"; do
        kill -KILL "$pid" 2>/dev/null || break
        sleep 0.1
    done
    sleep "${DOWN_S:-0}"
    begin gateway radosgw --conf "$folder/ceph.conf" --foreground --name client.gateway
    port=$(sed -n 's/.*endpoint=127.0.0.1://p' ceph.conf)
    wait_for_gateway "$port"
}

stop() {
    local daemon pid
    [[ -f $folder/$MARK ]] || return 0 # never remove what start did not make
    cd "$folder"
    for daemon in gateway osd mgr mon; do
        [[ -f $daemon.pid ]] || continue
        pid=$(<"$daemon.pid")
        while is_ours "$pid"; do
            kill -KILL "$pid" 2>/dev/null || break # nothing is kept, so there is nothing to save
            sleep 0.1
        done
    done
    rm -rf log mon mgr osd gateway ceph.conf keyring monmap env ./*.pid "$MARK"
    cd /
    rmdir --ignore-fail-on-non-empty "$folder"
}

[[ $# -eq 2 ]] || fail "usage: s3_gateway.sh start|restart|stop FOLDER"
folder=$(realpath -m "$2")
case $1 in
    start | restart | stop) "$1" ;;
    *) fail "expected start, restart or stop, got $1" ;;
esac
