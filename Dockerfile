# One static binary and a CA bundle in an empty image. Build: docker build -t sidebus .
# The last stage alone, around a binary from the host: scripts/image-check.sh.

ARG RUST_VERSION=1.95
FROM rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src
COPY . .
# The host's own target is named so that the flags reach the binary and not the build scripts. glibc linked statically still
# resolves names in an empty root.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    target="$(rustc -vV | sed -n 's/^host: //p')" \
    && RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --bin sidebus --target "$target" \
    && install -D "target/$target/release/sidebus" /out/sidebus \
    && install -D -m 644 /etc/ssl/certs/ca-certificates.crt /out/ca-certificates.crt

FROM scratch
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="sidebus" \
      org.opencontainers.image.description="A sidecar that gives any program a message bus over gRPC" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /out/sidebus /sidebus
COPY --from=build /out/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# The empty image has no certificates of its own, and nobody's home is here to look in.
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
# The kubelet and Prometheus come by the pod's address; this door shows probes and metrics and nothing else.
ENV BUS__HEALTH__LISTEN=0.0.0.0:17673
EXPOSE 7672 17673
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/sidebus", "healthcheck"]
ENTRYPOINT ["/sidebus"]
CMD ["run"]
