# twostage on NVIDIA GPUs; needs the NVIDIA Container Toolkit on the host:
#   docker build -f docker/cuda.Dockerfile -t twostage:cuda .
#   docker run --rm --gpus all --ipc host -v "$PWD:/data" twostage:cuda train --system san_vitb --num-gpus 8 OUTPUT_DIR /data/san
FROM python:3.11-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 TWOSTAGE_HOME=/weights

WORKDIR /opt/twostage
COPY requirements.txt ./
# PyPI's torch for Linux brings CUDA's libraries; the driver is the host's.
RUN torch="$(grep '^torch==' requirements.txt)" \
    && python -m pip install "$torch" "$(grep '^torchvision==' requirements.txt)" \
    && python -m pip install -r requirements.txt
COPY . .
RUN python -m pip install --no-deps . \
    && useradd --create-home twostage \
    && mkdir /weights \
    && chown twostage /weights

USER twostage
WORKDIR /data
VOLUME ["/weights"]
ENTRYPOINT ["twostage"]
CMD ["--help"]
