# The project in a container, with `python main.py` as its command.
#
#   docker build -t lightning-video-ssl .
#   docker run --rm --shm-size 8g -v "$PWD/data:/app/data" -v "$PWD/runs:/app/runs" lightning-video-ssl fit --config configs/quickstart.yaml
#
# For GPUs, a base image that has PyTorch with CUDA, and the container toolkit on the host:
#
#   docker build -t lightning-video-ssl:cuda --build-arg BASE=pytorch/pytorch:2.7.1-cuda12.6-cudnn9-runtime .
#   docker run --rm --gpus all --shm-size 32g -v ... lightning-video-ssl:cuda fit --config configs/smile.yaml --data.root data/kinetics400
#
# Workers hand batches over through shared memory, hence --shm-size. PyTorch's usual wheels for Linux bring CUDA along; for a smaller
# image that computes on CPUs alone, TORCH_INDEX may name the index of wheels for CPUs that pytorch.org gives.
ARG BASE=python:3.12-slim
FROM ${BASE}

ARG TORCH_INDEX=""
ARG EXTRAS=map,export

WORKDIR /app
COPY pyproject.toml README.md LICENSE main.py ./
COPY modules ./modules
COPY datamodules ./datamodules
COPY callbacks ./callbacks
COPY configs ./configs
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision; fi \
    && pip install --no-cache-dir -e ".[$EXTRAS]"

ENTRYPOINT ["python", "main.py"]
CMD ["--help"]
