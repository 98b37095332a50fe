#!/bin/sh
# Build llama.cpp (through llama-cpp-python) for this processor in an environment of its own: llama.sh FOLDER
set -eu
folder=$1
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
echo "llama.sh: building llama.cpp into $folder (about ten minutes on two cores, once)"
CMAKE_ARGS="-DGGML_NATIVE=ON" "$folder/bin/python" -m pip install --quiet --disable-pip-version-check llama-cpp-python==0.3.36
touch "$folder/.ready"
