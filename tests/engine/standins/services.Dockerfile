# Debian's packages under the names of the upstream images that compose.yaml asks for: same users, folders and commands.
FROM debian:bookworm-slim AS packages
# Without pages of Prometheus that nobody opens here, and without compiled queries: 618 MB would be 180.
RUN for path in /usr/share/javascript/ /usr/bin/promtool /usr/lib/postgresql/*/lib/bitcode/ \
      /usr/lib/postgresql/*/lib/llvmjit /usr/lib/*/libLLVM /usr/lib/*/libz3; do \
      echo "path-exclude=$path*"; \
    done >/etc/dpkg/dpkg.cfg.d/smaller \
 && groupadd -g 999 service \
 && useradd -u 999 -g 999 --no-create-home --home-dir /var/lib/postgresql service \
 && mkdir -p /etc/postgresql-common \
 && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf \
 && apt-get update \
 && apt-get install -y --no-install-recommends redis-server postgresql prometheus wget \
 && rm -rf /var/lib/apt/lists/* \
 && ln -sf /usr/lib/postgresql/*/bin/* /usr/local/bin/ \
 && install -d -o 999 -g 999 /data \
 && install -d -o 999 -g 999 -m 700 /var/lib/postgresql/data \
 && install -d -o 999 -g 999 -m 2777 /var/run/postgresql \
 && install -d -o 65534 -g 65534 /prometheus

FROM packages AS redis
WORKDIR /data
VOLUME ["/data"]
CMD ["redis-server"]

FROM packages AS postgres
COPY postgres-entrypoint /usr/local/bin/docker-entrypoint.sh
ENV PGDATA=/var/lib/postgresql/data
VOLUME ["/var/lib/postgresql/data"]
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]

FROM packages AS prometheus
WORKDIR /prometheus
VOLUME ["/prometheus"]
ENTRYPOINT ["/usr/bin/prometheus"]
