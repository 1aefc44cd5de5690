# The image of one worker: `docker build -t replicator:0.1.0 .`
# 3.11 is the version that the tests run on; 3.12 and 3.13 are supported: `--build-arg PYTHON_VERSION=3.13`.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY replicator ./replicator
RUN python -m pip wheel --no-deps --wheel-dir /dist .
# every dependency has a binary wheel: nothing is compiled here, and pip stays out of the result
RUN python -m venv --without-pip /opt/replicator \
    && python -m pip --python /opt/replicator/bin/python install --only-binary=:all: /dist/*.whl

FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="replicator" \
      org.opencontainers.image.description="Exactly-once replication of Kafka topics between clusters" \
      org.opencontainers.image.licenses="Apache-2.0"
# probes reach a container from outside its loopback interface, and HEALTHCHECK and EXPOSE need a fixed port:
# these two override `http` in the file
ENV PATH="/opt/replicator/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    REPLICATOR_CONFIG=/etc/replicator/replicator.yaml \
    REPLICATOR_HTTP__HOST=0.0.0.0 \
    REPLICATOR_HTTP__PORT=9464
COPY --from=build /opt/replicator /opt/replicator
# a number, so that Kubernetes' runAsNonRoot can see that it is not root; nothing is written to the file system
USER 10001:10001
WORKDIR /
EXPOSE 9464
STOPSIGNAL SIGTERM
# liveness, not readiness: an unreachable cluster is no reason to restart; proxies of the environment are not used
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['REPLICATOR_HTTP__PORT'] + '/livez', timeout=4)"]
ENTRYPOINT ["replicator"]
CMD ["run"]
