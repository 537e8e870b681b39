# One image for the service and the trainer; which of them a container is, its command says.
# A CPU build of torch: docker build --build-arg PIP_ARGS="--extra-index-url ADDRESS" .
FROM python:3.11-slim-bookworm

ARG PIP_ARGS=""
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 1000 moescope \
    && mkdir -p /data /artifacts /clips \
    && chown moescope:moescope /data /artifacts

WORKDIR /app
# torch first: its layer is by far the largest and changes least
COPY constraints.txt ./
RUN pip install ${PIP_ARGS} -c constraints.txt torch==2.13.0
COPY . ./
RUN pip install ${PIP_ARGS} -c constraints.txt .

USER moescope
WORKDIR /home/moescope
ENV MOESCOPE_HOME=/data
ENTRYPOINT ["moescope"]
CMD ["up"]
