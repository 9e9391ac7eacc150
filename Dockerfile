# docker build -t gpu-npu .                              the command line, for GPUs with a driver for CUDA 13
# docker build -t gpu-npu:profile --target profile .     the same with nsys and ncu
# buildah and podman: --format docker, as OCI's format has no HEALTHCHECK. tests/packaging/build_container.py builds it on
# a plain Debian in the place of both base images; on NVIDIA's it has not been built yet.
# Bases are named by release, not by digest, so that a build has the security updates of its day; keep the image itself
# where the same bytes are needed again.
ARG CUDA=13.1.1

# The wheel, built where there is a compiler and installed into a folder that the next stage takes over.
FROM ubuntu:24.04 AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make wheel \
    && python3 -m venv /opt/gpu-npu \
    && set -- dist/*.whl \
    && /opt/gpu-npu/bin/pip install --no-cache-dir "$1[cuda13]"

FROM nvidia/cuda:${CUDA}-runtime-ubuntu24.04 AS runtime
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 npu \
    && install --directory --owner npu /home/npu/.cache /home/npu/.cache/gpu-npu /data
COPY --from=build /opt/gpu-npu /opt/gpu-npu
ENV PATH=/opt/gpu-npu/bin:$PATH
USER 10001
WORKDIR /data
HEALTHCHECK --interval=5m --timeout=2m CMD ["gpu-npu", "doctor"]
ENTRYPOINT ["gpu-npu"]
CMD ["--help"]

FROM runtime AS profile
ARG CUDA
USER 0
# From NVIDIA's repository, which the image has configured: cuda-nsight-systems-13-1, cuda-nsight-compute-13-1.
# hadolint ignore=DL3008
RUN version="${CUDA%.*}" \
    && version="${version%.*}-${version#*.}" \
    && apt-get update \
    && apt-get install --yes --no-install-recommends "cuda-nsight-systems-$version" "cuda-nsight-compute-$version" \
    && rm -rf /var/lib/apt/lists/* \
    && nsys --version \
    && ncu --version
USER 10001

# What `docker build` makes when no target is named.
FROM runtime
