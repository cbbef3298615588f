# Shunt in a container, on the interfaces of the container or, with --network host, of the host.
#
#   docker build -t shunt .
#   docker run --rm --network host \
#       --cap-drop ALL --cap-add NET_ADMIN --cap-add NET_RAW --cap-add IPC_LOCK --cap-add SYS_NICE \
#       --security-opt systempaths=unconfined --device /dev/net/tun \
#       -v ./shunt.toml:/etc/shunt/shunt.toml:ro shunt
#
# NET_RAW       af_packet ports
# NET_ADMIN     the taps of the exception path (with /dev/net/tun) and their addresses
# IPC_LOCK      memory that is not swapped out
# SYS_NICE      workers pinned to their cores
# systempaths   /proc/sys can be written: Shunt keeps the kernel quiet on the interfaces below its
#               ports, which would otherwise reset the connections of health checks
#
# Without systempaths=unconfined /proc/sys is read-only, and `shunt run` cannot keep the kernel quiet
# itself: its warnings and `shunt doctor` name the settings, which the host (or --sysctl without
# --network host) makes.
#
# Hugepages are optional: dpdk.hugepages = true needs `-v /dev/hugepages:/dev/hugepages` too.
# Interfaces with offloads (veth, most bridges) need `ethtool -K IF tx off tso off gso off gro off`
# at the peers, or full_checksums = true; `docker run … shunt doctor` says which.

ARG BUILDER=rust:1-bookworm
ARG RUNTIME=debian:bookworm-slim

FROM ${BUILDER} AS build
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        clang libclang-dev libdpdk-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin shunt \
    && install -D -s target/release/shunt /out/usr/local/bin/shunt

FROM ${RUNTIME}
# The drivers are plugins that EAL loads when it starts. These are for virtual and emulated
# devices; for network cards add theirs, like librte-net-ixgbe23 or librte-net-mlx5-23.
ARG EXTRA_DRIVERS=""
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ethtool iproute2 \
        librte-bus-pci23 librte-bus-vdev23 librte-mempool-ring23 \
        librte-net-af-packet23 librte-net-af-xdp23 librte-net-memif23 librte-net-null23 \
        librte-net-pcap23 librte-net-ring23 librte-net-tap23 librte-net-vhost23 \
        librte-net-virtio23 \
        ${EXTRA_DRIVERS} \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s CMD ["shunt", "status"]
ENTRYPOINT ["shunt"]
CMD ["run", "--config", "/etc/shunt/shunt.toml"]
