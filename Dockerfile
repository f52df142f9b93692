# Diptych with its exact dependencies: docs/containers.md says how it is built and used.
#   docker build --tag diptych .                                     the trainer
#   docker build --tag diptych:compile --target compile .            with the compilers that torch.compile needs
# Any image with Debian's or Ubuntu's packages and Python 3.11 to 3.13 can be the base, NVIDIA's for PyTorch among them.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm


# What pyproject.toml asks for, in a file that stays the same when anything else in it changes: of the extras, those for
# shards in the cloud and for the GPU's own numbers.
FROM ${BASE_IMAGE} AS requirements
ARG EXTRAS="remote nvml"
COPY pyproject.toml /
RUN python3 -c "import os, tomllib; \
asked = tomllib.load(open('/pyproject.toml', 'rb')); \
extras = [asked['project']['optional-dependencies'][extra] for extra in os.environ['EXTRAS'].split()]; \
print(*asked['project']['dependencies'], *sum(extras, []), *asked['build-system']['requires'], sep='\n')" \
    > /requirements.txt


# 6 GB, made again only when a requirement or a constraint changes. pip's configuration (an index of one's own, its
# password) and the certificates to trust may come as secrets, which are there while this line runs and in no layer.
FROM ${BASE_IMAGE} AS dependencies
COPY --from=requirements /requirements.txt /build/
COPY constraints.txt /build/
# NVIDIA's images pin versions of their own in PIP_CONSTRAINT.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=certificates,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -m venv /opt/diptych \
    && PIP_CONSTRAINT="" /opt/diptych/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
       --constraint /build/constraints.txt --requirement /build/requirements.txt


FROM ${BASE_IMAGE} AS trainer
# tini, as the first process, passes signals on and buries what ranks leave behind. Debian keeps only the newest version
# of a package, so that a pinned one could soon not be installed any more.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-log-init --no-create-home --home-dir /tmp --shell /usr/sbin/nologin diptych \
    && install --directory --owner=diptych --group=diptych /diptych/data /diptych/runs
COPY --from=dependencies /opt/diptych /opt/diptych
WORKDIR /diptych
COPY . .
RUN /opt/diptych/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
    --no-index --no-deps --no-build-isolation --editable .
# As in the Makefile: glibc keeps large buffers, and a program's own folder is not searched for modules. LOGNAME, so that
# torch's caches find a name for any --user. NVIDIA's container runtime refuses a driver that is too old in one line.
ENV PATH=/opt/diptych/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_MMAP_THRESHOLD_=1073741824 \
    MALLOC_TRIM_THRESHOLD_=4294967296 \
    HOME=/tmp \
    LOGNAME=diptych \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA=cuda>=13.0
USER 10001:10001
EXPOSE 9400
ENTRYPOINT ["tini", "--"]
CMD ["python", "train/pretrain.py", "--help"]
# Of the first rank; one that stands still ends itself before that (timeouts.step_seconds). The start may take as long as
# timeouts.startup_seconds, which the program knows.
HEALTHCHECK --interval=60s --timeout=15s --retries=2 \
    CMD ["python", "-m", "ops.health_check", "--max_age_seconds", "900"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Diptych" \
      org.opencontainers.image.description="SimCLR pretraining: WebDataset, DALI, Kornia, Accelerate, LARS, Prometheus" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"


FROM trainer AS compile
USER 0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
    && if ! test -e "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; then \
         apt-get install --yes --no-install-recommends python3-dev; \
       fi \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001


# The last stage is what is built unless another is named.
FROM trainer
