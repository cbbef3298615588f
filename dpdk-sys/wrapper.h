/* What the bindings are made from; build.rs allows only the names that Shunt uses. */
#define _GNU_SOURCE /* fopencookie */
#include <stdio.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* 64-bit flags that are made by function-like macros, which bindgen cannot evaluate: they appear
 * in Rust as DPDK_<name without RTE_>. */
#define FLAG(name) static const uint64_t DPDK_##name = RTE_##name
FLAG(ETH_RSS_IPV4);
FLAG(ETH_RSS_NONFRAG_IPV4_TCP);
FLAG(ETH_RSS_NONFRAG_IPV4_UDP);
FLAG(ETH_RSS_IPV6);
FLAG(ETH_RSS_NONFRAG_IPV6_TCP);
FLAG(ETH_RSS_NONFRAG_IPV6_UDP);
/* Bit 63 does not survive bindgen's signed evaluation; its position does. */
static const unsigned DPDK_ETH_RSS_L3_SRC_ONLY_BIT = __builtin_ctzll(RTE_ETH_RSS_L3_SRC_ONLY);
FLAG(ETH_RSS_L3_DST_ONLY);
FLAG(ETH_RSS_L4_SRC_ONLY);
FLAG(ETH_RSS_L4_DST_ONLY);
FLAG(ETH_RX_OFFLOAD_IPV4_CKSUM);
FLAG(ETH_RX_OFFLOAD_UDP_CKSUM);
FLAG(ETH_RX_OFFLOAD_TCP_CKSUM);
FLAG(ETH_RX_OFFLOAD_SCATTER);
FLAG(ETH_RX_OFFLOAD_RSS_HASH);
FLAG(ETH_TX_OFFLOAD_IPV4_CKSUM);
FLAG(ETH_TX_OFFLOAD_UDP_CKSUM);
FLAG(ETH_TX_OFFLOAD_TCP_CKSUM);
FLAG(ETH_TX_OFFLOAD_MULTI_SEGS);
FLAG(ETH_TX_OFFLOAD_MBUF_FAST_FREE);
FLAG(MBUF_F_RX_IP_CKSUM_MASK);
FLAG(MBUF_F_RX_IP_CKSUM_BAD);
FLAG(MBUF_F_RX_IP_CKSUM_GOOD);
FLAG(MBUF_F_RX_L4_CKSUM_MASK);
FLAG(MBUF_F_RX_L4_CKSUM_BAD);
FLAG(MBUF_F_RX_L4_CKSUM_GOOD);
FLAG(MBUF_F_RX_L4_CKSUM_NONE);
FLAG(MBUF_F_TX_IPV4);
FLAG(MBUF_F_TX_IPV6);
FLAG(MBUF_F_TX_IP_CKSUM);
FLAG(MBUF_F_TX_TCP_CKSUM);
FLAG(MBUF_F_TX_UDP_CKSUM);

/* rte_errno is a thread-local variable behind a macro. */
static inline int dpdk_errno(void)
{
	return rte_errno;
}
