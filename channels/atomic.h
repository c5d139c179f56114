/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_CHANNELS_ATOMIC_H
#define HAUL_CHANNELS_ATOMIC_H

/*
 * HAUL_ATOMIC(type) names an atomic of `type` that C17 and C++17 read as the same object, so that headers
 * with atomics in them can be included by C++ tests. The generic functions (atomic_load_explicit, ...) and
 * the memory orders have the same names in both languages.
 */

#ifdef __cplusplus
#include <atomic>
#define HAUL_ATOMIC(type) std::atomic<type>
using std::atomic_fetch_add_explicit;
using std::atomic_fetch_and_explicit;
using std::atomic_fetch_or_explicit;
using std::atomic_load_explicit;
using std::atomic_store_explicit;
using std::memory_order_acq_rel;
using std::memory_order_acquire;
using std::memory_order_relaxed;
using std::memory_order_release;
using std::memory_order_seq_cst;
#else
#include <stdalign.h>
#include <stdatomic.h>
#define HAUL_ATOMIC(type) _Atomic(type)
#endif

#define HAUL_CACHE_LINE 64

#endif
