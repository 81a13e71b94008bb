# What the scripts beside this one share: names, pinned versions, and the look for tools before anything is begun.
# shellcheck shell=bash disable=SC2034
CLUSTER=med42
CONTEXT=kind-$CLUSTER
NAMESPACE=kubeflow
PIPELINES=2.17.0
TRAINER=v2.3.0
GPU_OPERATOR=0.0.59
PORT=${PORT:-8080}
VERSION=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' med42/__init__.py)
IMAGES=(med42-data med42-train med42-evaluate med42-release)

missing=()
need() { # tool, what for, where from
  command -v "$1" >/dev/null 2>&1 || missing+=("$1: not on the PATH; needed $2; $3")
}

all_there() {
  [ ${#missing[@]} = 0 ] && return
  printf '%s\n' "${missing[@]}" >&2
  echo "nothing was begun: ${#missing[@]} missing" >&2
  exit 1
}

need_cluster_tools() {
  need docker "to run the nodes" "install Docker Engine"
  need kind "to make the cluster" "see kind.sigs.k8s.io, version 0.29 or newer"
  need kubectl "to speak to the cluster" "see kubernetes.io/docs/tasks/tools"
}

k() { kubectl --context "$CONTEXT" "$@"; }

step() { printf '== %s\n' "$*"; }
