# One image for every role: SuperLink, client, command line. It needs no BuildKit.
#   docker build -t fedfmd:local .
#   docker build -t fedfmd:cuda --build-arg TORCH_INDEX= .     the CUDA build of torch
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
# Empty values are as good as none. They stay in this stage and do not reach the image.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG PIP_NO_INDEX=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN command -v g++ || (apt-get update && apt-get install --yes --no-install-recommends g++)
RUN python3 -m venv /opt/venv
# docker/wheels may hold wheels, for machines without an index. torch first: the largest layer changes least.
COPY docker/requirements.txt docker/wheels* /wheels/
RUN /opt/venv/bin/pip install --find-links /wheels ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} \
      "$(grep '^torch' /wheels/requirements.txt)" numpy \
 && /opt/venv/bin/pip install --find-links /wheels -r /wheels/requirements.txt
# The compiled kernels for every CPU this image may run on: it has no compiler.
COPY fedfmd/files.py /kernels/fedfmd/files.py
COPY fedfmd/nn/kernels /kernels/fedfmd/nn/kernels
RUN cd /kernels && FEDFMD_KERNELS_DIR=/opt/kernels /opt/venv/bin/python -m fedfmd.nn.kernels --portable \
 && cd /opt/venv/lib/python3*/site-packages \
 && rm -rf torch/include torch/share torch/test torch/lib/*.a uv uv-*.dist-info /opt/venv/bin/uv* \
 && find torch/bin -type f ! -name torch_shm_manager -delete \
 && find sympy numpy networkx -type d -name tests -prune -exec rm -rf {} +
COPY fedfmd /source/fedfmd
COPY server /source/server
COPY clients /source/clients
RUN cp -r /source/* /opt/venv/lib/python3*/site-packages/ \
 && rm -rf /opt/venv/lib/python3*/site-packages/pip* /opt/venv/bin/pip* \
 && /opt/venv/bin/python -c "import server.app, clients.app"

FROM ${BASE_IMAGE}
RUN groupadd --gid 10001 fedfmd && useradd --uid 10001 --gid 10001 --no-log-init --create-home fedfmd \
 && install -d -m 1777 /results /state && install -d /keys /data /deployment
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/kernels /opt/kernels
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLWR_HOME=/tmp/flwr \
    FEDFMD_CACHE=/tmp/cache \
    FEDFMD_KERNELS_DIR=/opt/kernels \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1
COPY fedfmd/deployment/app /opt/fedfmd/app
COPY docker/*.py docker/cli.sh docker/config.toml /opt/fedfmd/
USER 10001:10001
WORKDIR /tmp
CMD ["flwr", "--version"]
