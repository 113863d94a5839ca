# A machine without anything but Docker:
#   docker build -t iceprobe .                                    CPU
#   docker build -t iceprobe --build-arg TORCH=cu132 .            CUDA; run with --gpus all
#   docker build -t iceprobe --build-arg EXTRAS=transformers,onnx .
#   docker run --rm iceprobe                                      the demo, offline
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" -v /data:/data:ro iceprobe run --backbone … --data folder:/data/birds …
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
# What download.pytorch.org calls its wheels: cpu, cu126, cu132 …
ARG TORCH=cpu
# Extras of pyproject.toml, with commas.
ARG EXTRAS=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/iceprobe
ENV PATH=/opt/iceprobe/bin:$PATH
WORKDIR /source
# torch first: what is edited most comes last.
COPY constraints.txt ./
RUN grep -E '^(torch|torchvision)==' constraints.txt > torch.txt \
    && pip install --requirement torch.txt --index-url "https://download.pytorch.org/whl/${TORCH}"
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install ".${EXTRAS:+[$EXTRAS]}" --constraint constraints.txt

FROM python:${PYTHON}-slim
COPY --from=build /opt/iceprobe /opt/iceprobe
# A home for caches and a folder for runs, for whatever user the container runs as.
RUN useradd --create-home --uid 1000 iceprobe \
    && install --directory --owner=iceprobe --mode=1777 /work /cache
ENV PATH=/opt/iceprobe/bin:$PATH XDG_CACHE_HOME=/cache HF_HOME=/cache/huggingface TORCH_HOME=/cache/torch
USER 1000
WORKDIR /work
ENTRYPOINT ["iceprobe"]
CMD ["demo"]
