# Two stages: one that builds, and a small one that runs. Build:
#   docker build -t dynarust:latest --build-arg REVISION=$(git rev-parse HEAD) .

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
# Symbols would make most of the binary.
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=symbols

# Dependencies first, in a layer that only a change of a manifest makes again: cargo builds them for a crate whose
# sources are empty. Every target that a manifest names must have a file, or cargo refuses to read it.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY bench/Cargo.toml bench/
COPY clients/rust/Cargo.toml clients/rust/
COPY gui/Cargo.toml gui/
RUN mkdir -p src tests proptests bench/src bench/benches clients/rust/src gui/src gui/tests \
    && touch src/lib.rs tests/main.rs proptests/main.rs bench/src/lib.rs bench/src/main.rs bench/benches/instructions.rs clients/rust/src/lib.rs gui/src/lib.rs gui/tests/main.rs \
    && echo 'fn main() {}' | tee src/main.rs src/gui.rs gui/src/main.rs > src/distributed_kv.rs \
    && cargo build --release --locked --bin DynaRust

# The sources keep the times of the checkout, which may be older than the empty ones: without the touch cargo would take
# what it built from those for up to date.
COPY clients/rust clients/rust
COPY src src
RUN touch src/lib.rs src/main.rs clients/rust/src/lib.rs \
    && cargo build --release --locked --bin DynaRust

FROM debian:bookworm-slim
# A volume that is mounted for the first time takes over the owner of the directory below it.
RUN useradd --uid 6660 --no-create-home --home-dir /app --shell /usr/sbin/nologin dynarust \
    && install --directory --owner 6660 --group 6660 /app
COPY --from=build /src/target/release/DynaRust /usr/local/bin/

# By number, so that Kubernetes can tell that it is not root.
USER 6660:6660
WORKDIR /app
VOLUME /app
EXPOSE 6660
STOPSIGNAL SIGTERM
# Whether the process answers, not whether it is ready: a restart does not help a node that waits for its cluster. It finds the node
# itself, whatever its port, TLS and data directory. The start period ends with the first success; a long recovery may take it.
HEALTHCHECK --interval=5s --timeout=10s --start-period=10m \
    CMD ["DynaRust", "health"]

# docker run -p 127.0.0.1:6660:6660 -v dynarust-data1:/app dynarust:latest [LISTEN [JOIN]...]
ENTRYPOINT ["DynaRust"]
CMD ["0.0.0.0:6660"]

# Last, as the revision differs with each build.
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="DynaRust" \
      org.opencontainers.image.description="A replicated, real-time key-value store you can curl" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
