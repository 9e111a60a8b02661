# hiif-deploy serve on processors. In the repository's root:
#     docker build -f .github/docker/cpu.Dockerfile -t hiif-deploy .
#     docker run --rm --read-only --tmpfs /tmp -v ./token:/run/secrets/token:ro -p 127.0.0.1:8000:8000 hiif-deploy
FROM python:3.13.7-slim-bookworm AS build
WORKDIR /source
COPY . .
# OpenCV without windows is the same module, and needs no libraries of a desktop.
RUN python -m venv /opt/hiif \
    && /opt/hiif/bin/pip install --no-cache-dir --constraint .github/docker/constraints.txt ".[serve]" \
    && /opt/hiif/bin/pip uninstall --yes opencv-python \
    && /opt/hiif/bin/pip install --no-cache-dir --constraint .github/docker/constraints.txt opencv-python-headless \
    && HIIF_DEPLOY_STORE=/opt/store /opt/hiif/bin/hiif-deploy serve --install-viewer

FROM python:3.13.7-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin hiif \
    && install --directory --owner=hiif --mode=0700 /cache
COPY --from=build /opt/hiif /opt/hiif
# A volume that an older image filled keeps its older viewer; `hiif-deploy serve --install-viewer` renews it.
COPY --from=build --chown=10001 /opt/store /cache/store
ENV PATH=/opt/hiif/bin:$PATH HIIF_DEPLOY_STORE=/cache/store PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /cache
VOLUME /cache
EXPOSE 8000
# Health is told without the token.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/live', timeout=4)"]
ENTRYPOINT ["hiif-deploy", "serve", "--host", "0.0.0.0", "--token-file", "/run/secrets/token", "--cache", "/cache/tiles"]
# Pictures, folders and options of `hiif-deploy serve`; none: the samples.
CMD []
