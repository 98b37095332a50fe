# Generate the Python of the gRPC interface from its .proto files: sh scripts/grpc.sh
# The generator is pinned, in an environment of its own: what it writes works with the grpcio and protobuf of that time (1.74
# and 6.31, the lower bounds in pyproject.toml) and with later ones, but not with earlier ones.
set -eu
cd "$(dirname "$0")/.."
here=lianlu/serve/grpc/v1
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3}" -m venv "$tools"
"$tools/bin/pip" install --quiet grpcio-tools==1.74.0
"$tools/bin/python" -m grpc_tools.protoc -I src --python_out=src --pyi_out=src "src/$here/engine.proto" "src/$here/health.proto"
"$tools/bin/python" -m grpc_tools.protoc -I src --grpc_python_out=src "src/$here/engine.proto"
