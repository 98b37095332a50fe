#!/bin/sh
# Set up a virtual environment with lianlu in it: setup.sh FOLDER REQUIREMENT [PROGRAM...]
# Debian packages that are missing (bubblewrap for the sandbox, venv support, programs that tests drive) are installed where
# that is allowed.
set -eu
folder=$1
requirement=$2
shift 2
python=${PYTHON:-python3}

debian() {
    if ! command -v apt-get >/dev/null; then
        echo "setup: please install $* with your system's package manager" >&2
        return 0
    fi
    if [ "$(id -u)" = 0 ]; then as_root=""; elif sudo -n true 2>/dev/null; then as_root="sudo"; else
        echo "setup: please run: sudo apt-get install $*" >&2
        return 0
    fi
    $as_root apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq "$@" >/dev/null || echo "setup: could not install $*" >&2
}

command -v bwrap >/dev/null || debian bubblewrap
for program in "$@"; do command -v "$program" >/dev/null || debian "$program"; done
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: $python is older than 3.11; set PYTHON to a newer one" >&2
    exit 2
}
"$python" -c 'import ensurepip' 2>/dev/null || debian python3-venv
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
echo "setup: installing $requirement into $folder (a few minutes the first time)"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$requirement"
touch "$folder/.ready"
