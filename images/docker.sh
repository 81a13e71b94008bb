# Sourced by the scripts here: `docker` is a client that can build with BuildKit and reach an engine, `version` the images' tag.
export DOCKER_BUILDKIT=1

docker=
for candidate in ${DOCKER:-docker /usr/bin/docker}; do
  # Since version 23 the client builds through a plug-in that some packages leave out; older clients build themselves.
  if "$candidate" buildx version >/dev/null 2>&1 || "$candidate" --version 2>/dev/null | grep -q 'version \(19\|20\)\.'; then
    docker=$candidate
    break
  fi
done
if [ -z "$docker" ]; then
  echo "docker: no client that builds with BuildKit; expected Docker with buildx, or Docker 20; install it, or set DOCKER=PATH" >&2
  exit 1
fi
if ! "$docker" info >/dev/null 2>&1; then
  echo "docker: no engine answers at ${DOCKER_HOST:-the default socket}; expected a running one; start it, or set DOCKER_HOST" >&2
  exit 1
fi
version=${VERSION:-$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' med42/__init__.py)}
