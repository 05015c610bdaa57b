# syntax=docker/dockerfile:1
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Linked with everything in it, so that the image needs nothing else.
RUN target="$(uname -m)-unknown-linux-gnu" \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target "$target" \
      --package resilience-operator --bin resilience-operator \
 && cp "target/$target/release/resilience-operator" /resilience-operator

FROM scratch
COPY --from=build /resilience-operator /resilience-operator
# `scratch` would run as root.
USER 65532:65532
ENTRYPOINT ["/resilience-operator"]
