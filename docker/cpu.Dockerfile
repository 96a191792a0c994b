# twostage on a CPU:
#   docker build -f docker/cpu.Dockerfile -t twostage:cpu .
#   docker run --rm -v "$PWD:/data" twostage:cpu segment /data/photo.jpg --words "cat, sofa" --system san_vitb --weights official --output /data/out
FROM python:3.11-slim-bookworm

# libgl and friends are not needed: OpenCV is the headless one.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 TWOSTAGE_HOME=/weights

WORKDIR /opt/twostage
# Dependencies first, so that a change of ours does not install them again.
COPY requirements.txt ./
RUN grep -E '^torch(vision)?==' requirements.txt > /tmp/torch.txt \
    && python -m pip install --index-url https://download.pytorch.org/whl/cpu -r /tmp/torch.txt \
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
