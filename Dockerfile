# Build a wheel and its dependencies in one stage, run them without any build tool, and not as root, in the other.
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY sessioncache sessioncache
COPY workers workers
RUN python -m venv /opt/sessioncache \
 && /opt/sessioncache/bin/pip install --no-cache-dir '.[postgres,metrics]'

FROM python:3.13-slim
RUN useradd --system --no-create-home sessioncache
COPY --from=build /opt/sessioncache /opt/sessioncache
ENV PATH=/opt/sessioncache/bin:$PATH PYTHONUNBUFFERED=1
USER sessioncache
ENTRYPOINT ["sessioncache"]
CMD ["worker"]
