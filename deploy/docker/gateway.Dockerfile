# Gateway, beat, migrations and the command `tunesmith`: everything light. No torch, no compiler.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# The stages python, light and code are the same in all Dockerfiles: built once, and their layers kept once.
FROM ${BASE_IMAGE} AS python
# tini: keepers that outlive their worker become children of process 1, which must wait for them.
RUN apt-get update \
 && apt-get install -y --no-install-recommends tini \
 && if ! command -v python3; then apt-get install -y --no-install-recommends python3 python3-venv; fi \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --home-dir /var/lib/tunesmith tunesmith \
 && install -d -o tunesmith -g tunesmith /var/lib/tunesmith

FROM python AS light
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
COPY deploy/locks/tunesmith.txt /src/
RUN python3 -m venv /opt/tunesmith \
 && /opt/tunesmith/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps -r /src/tunesmith.txt \
 && echo /opt/code >"$(echo /opt/tunesmith/lib/python3.*/site-packages)/tunesmith.pth" \
 && /opt/tunesmith/bin/pip uninstall --yes --quiet setuptools pip

# Dependencies before code: a change of code makes one small layer anew, for every image the same.
FROM python AS code
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check setuptools==84.2.1
WORKDIR /src
COPY pyproject.toml README.md ./
COPY shared shared
COPY gateway gateway
COPY trainer_worker trainer_worker
COPY export_worker export_worker
COPY inference_worker inference_worker
RUN /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --no-build-isolation --no-deps --target /opt/code . \
 && sed -i "1s|.*|#!/opt/tunesmith/bin/python3|" /opt/code/bin/tunesmith

FROM python
COPY --from=light /opt/tunesmith /opt/tunesmith
COPY --from=code /opt/code /opt/code
ENV PATH=/opt/code/bin:/opt/tunesmith/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    TUNESMITH_HOME=/var/lib/tunesmith TUNESMITH_HOST=0.0.0.0
USER 10001
WORKDIR /var/lib/tunesmith
VOLUME ["/var/lib/tunesmith"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=3)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "-s", "--"]
CMD ["gunicorn", "--config", "python:gateway.gunicorn_conf", "--no-control-socket", "gateway.wsgi:app"]
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE
LABEL org.opencontainers.image.title="tunesmith-gateway" \
      org.opencontainers.image.description="Tunesmith HTTP API, beat and migrations" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
