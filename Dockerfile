# Two stages: one that builds, and a small one that runs. Build: docker build -t dynarust:latest .

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src

# Dependencies first, in a layer that only a change of the manifest makes again: cargo builds them for a crate whose
# sources are empty. Every target that the manifest names must have a file, or cargo refuses to read it.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src tests proptests benches \
    && touch src/lib.rs tests/main.rs proptests/main.rs benches/core.rs benches/bare.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked --bin DynaRust

# The sources keep the times of the checkout, which may be older than the empty ones: without the touch cargo would take
# what it built from those for up to date.
COPY src src
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin DynaRust

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="DynaRust" \
      org.opencontainers.image.description="A replicated, real-time key-value store you can curl" \
      org.opencontainers.image.licenses="MIT"

# A volume that is mounted for the first time takes over the owner of the directory below it.
RUN useradd --uid 6660 --no-create-home --home-dir /app --shell /usr/sbin/nologin dynarust \
    && install --directory --owner dynarust --group dynarust /app
COPY --from=build /src/target/release/DynaRust /usr/local/bin/

USER dynarust
WORKDIR /app
VOLUME /app
EXPOSE 6660
STOPSIGNAL SIGTERM
# Speaks TLS where the node's environment has DYNARUST_TLS_CERT, or DYNARUST_CONFIG a file with tls-cert.
HEALTHCHECK --interval=5s --timeout=10s --start-period=30s \
    CMD ["DynaRust", "status", "127.0.0.1:6660"]

# docker run -p 6660:6660 -v dynarust-data1:/app dynarust:latest 0.0.0.0:6660 [JOIN]...
ENTRYPOINT ["DynaRust"]
