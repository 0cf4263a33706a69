import subprocess
import sys

import pytest

import spips_core


def test_every_public_name_is_there_and_found_only_once_it_is_used():
    for name in spips_core.__all__:
        assert getattr(spips_core, name) is not None
    assert set(spips_core.__all__) <= set(dir(spips_core))
    command = "import sys, spips_core.errors; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True)


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="'spips_core' has no attribute 'SPIPSS'"):
        _ = spips_core.SPIPSS
    with pytest.raises(ImportError, match="SPIPSS"):
        from spips_core import SPIPSS  # noqa: F401
