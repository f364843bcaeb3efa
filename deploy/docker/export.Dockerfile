# Export worker: Celery supervises, the child runs torch, transformers, peft and llmcompressor.
# Up to its last lines this is trainer.Dockerfile: both images share every layer.
ARG BASE_IMAGE=debian:bookworm-slim

# The stages python, build, light and code are the same in all Dockerfiles: built once, and their layers kept once.
FROM ${BASE_IMAGE} AS python
# tini: keepers that outlive their worker become children of process 1, which must wait for them.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates tini \
 && if ! command -v python3; then apt-get install -y --no-install-recommends python3; fi \
 && rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/apt/* /var/log/dpkg.log \
      /usr/bin/tini-static /usr/lib/python3.*/lib2to3 /usr/lib/python3.*/pydoc_data /usr/lib/python3.*/test \
 && useradd --uid 10001 --no-create-home --home-dir /var/lib/tunesmith tunesmith \
 && install -d -o tunesmith -g tunesmith /var/lib/tunesmith

FROM python AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update \
 && apt-get install -y --no-install-recommends binutils \
 && if ! python3 -c 'import ensurepip'; then apt-get install -y --no-install-recommends python3-venv; fi \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/build \
 && /opt/build/bin/pip install setuptools==84.2.1

FROM build AS light
COPY deploy/locks/tunesmith.txt /src/
# Without what services never load: the Hub's client (children have their own), symbols, source maps, other services of
# AWS than S3 and of Google than OpenTelemetry's, other databases, objects mapped to tables, tests, languages to colour,
# a faster measure of what is typed into Celery's shell. What is left is then loaded: that proves it whole and writes
# its bytecode, for which a read-only root has no place later.
RUN python3 -m venv --without-pip /opt/tunesmith \
 && grep -vE '^(huggingface_hub|hf-xet|httpx2|httpcore2|truststore|filelock|tqdm)==' /src/tunesmith.txt >/src/light.txt \
 && /opt/build/bin/pip --python /opt/tunesmith/bin/python3 install --no-compile --no-deps -r /src/light.txt \
 && site=$(echo /opt/tunesmith/lib/python3.*/site-packages) \
 && find "$site" -name '*.so' -not -path '*.libs/*' -exec strip --strip-unneeded {} + \
 && find "$site" \( -name '*.js.map' -o -name '*.css.map' -o -name 'swagger-ui-es-*' -o -name swagger-ui.js \
      -o -name '*.py[xi]' -o -name '*.pxd' -o -name '_wcwidth_c.*' -o -path '*.dist-info/RECORD' \) -delete \
 && find "$site/botocore/data" -mindepth 1 -maxdepth 1 -type d -not -name s3 -not -name sts -not -name 'sso*' -exec rm -r {} + \
 && find "$site" -type d \( -name tests -o -name testing -o -name sboms -o -path '*/sqlalchemy/orm' -o -path '*/sqlalchemy/ext/*' \
      -o -path '*/dialects/my*' -o -path '*/dialects/mssql' -o -path '*/dialects/oracle' \) \
      -prune -exec rm -r {} + \
 && find "$site/google" -mindepth 1 -maxdepth 1 -type d -not -name protobuf -not -name rpc -not -name _upb -exec rm -r {} + \
 && find "$site/pygments/lexers" -type f -not -name '__init__.py' -not -name _mapping.py -not -name python.py -delete \
 && find "$site" -name __pycache__ -prune -exec rm -r {} + \
 && /opt/tunesmith/bin/python3 -c "import alembic.command, arro3.io, celery.apps.worker, celery.bin.celery, celery.bin.worker, \
celery.concurrency.thread, celery.worker.consumer, flask_smorest, gunicorn.app.wsgiapp, httptools, httpx, jsonschema, \
kombu.transport.redis, opentelemetry.exporter.otlp.proto.http.trace_exporter, prometheus_client.multiprocess, psutil, psycopg, \
rich.console, rich.progress, rich.table, ruamel.yaml, s3fs, sqlalchemy.dialects.sqlite, sqlalchemy.dialects.postgresql.psycopg, \
swagger_ui_bundle, tokenizers" \
 && echo /opt/code >"$site/tunesmith.pth"

# Dependencies before code: a change of code makes one small layer anew, for every image the same.
FROM build AS code
WORKDIR /src
COPY pyproject.toml README.md ./
COPY shared shared
COPY gateway gateway
COPY trainer_worker trainer_worker
COPY export_worker export_worker
COPY inference_worker inference_worker
# What the page /runbook shows.
COPY docs/runbook.md gateway/web/
RUN /opt/build/bin/pip install --no-build-isolation --no-deps --target /opt/code . \
 && sed -i "1s|.*|#!/opt/tunesmith/bin/python3|" /opt/code/bin/tunesmith

FROM build AS heavy
COPY deploy/locks/trainer.txt /src/
# torch first: the rest then takes the build that is there. Without dependencies, as the lock names them all.
RUN python3 -m venv --without-pip /opt/trainer \
 && pip='/opt/build/bin/pip --python /opt/trainer/bin/python3' \
 && grep '^torch==' /src/trainer.txt >/src/torch.txt \
 && grep -vE '^(pytest|pytest-timeout|pytest-xdist|execnet|iniconfig|pluggy)==' /src/trainer.txt >/src/rest.txt \
 && $pip install -r /src/torch.txt \
 && $pip install --no-deps -r /src/rest.txt \
 && echo /opt/code >"$(echo /opt/trainer/lib/python3.*/site-packages)/tunesmith.pth"

FROM python
COPY --from=light /opt/tunesmith /opt/tunesmith
# DeepSpeed builds ops for this machine's processor at their first use: a compiler, and Python's headers where the base
# has none.
# ray: KubeRay starts a cluster's nodes by that word, in a shell that may be a login shell and then forgets PATH below.
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ \
 && if [ ! -f "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; then \
      apt-get install -y --no-install-recommends python3-dev; \
    fi \
 && rm -rf /var/lib/apt/lists/* \
 && ln -s /opt/trainer/bin/ray /usr/local/bin/ray
COPY --from=heavy /opt/trainer /opt/trainer
COPY --from=code /opt/code /opt/code
ENV PATH=/opt/code/bin:/opt/tunesmith/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    TUNESMITH_HOME=/var/lib/tunesmith TUNESMITH_METRICS_PORT=9100 TUNESMITH_METRICS_HOST=0.0.0.0 \
    TUNESMITH_TRAINER_PYTHON=/opt/trainer/bin/python3 HOME=/var/lib/tunesmith HF_HOME=/var/lib/tunesmith/huggingface
USER 10001
WORKDIR /var/lib/tunesmith
VOLUME ["/var/lib/tunesmith"]
EXPOSE 9100
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9100/metrics', timeout=3)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "-s", "--"]
CMD ["celery", "-A", "export_worker.tasks", "worker", "-Q", "export,push", "--pool", "threads", "-c", "1", "--loglevel", "INFO", \
     "--without-gossip", "--without-mingle", "--without-heartbeat"]
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE
LABEL org.opencontainers.image.title="tunesmith-export" \
      org.opencontainers.image.description="Tunesmith export worker" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
