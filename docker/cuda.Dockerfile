# twostage on NVIDIA GPUs; needs the NVIDIA Container Toolkit on the host:
#   docker build -f docker/cuda.Dockerfile -t twostage:cuda .
#   docker run --rm --gpus all --ipc host -v "$PWD:/data" twostage:cuda train --system san_vitb --num-gpus 8 OUTPUT_DIR /data/san
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 TWOSTAGE_HOME=/weights

WORKDIR /opt/twostage
COPY requirements.txt ./
# PyPI's torch for Linux brings CUDA's libraries; the driver is the host's.
RUN grep -E '^torch(vision)?==' requirements.txt > /tmp/torch.txt \
    && python -m pip install -r /tmp/torch.txt \
    && python -m pip install -r requirements.txt
COPY . .
RUN python -m pip install --no-deps . \
    && useradd --uid 1000 --create-home twostage \
    && mkdir /weights \
    && chown twostage /weights

USER 1000
WORKDIR /data
VOLUME ["/weights"]
ENTRYPOINT ["twostage"]
CMD ["--help"]
