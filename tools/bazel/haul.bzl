"""The project's compile flags, in one place."""

COPTS = [
    "-std=c17",
    "-D_GNU_SOURCE",
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Wmissing-prototypes",
    "-Wvla",
    "-Wno-missing-field-initializers",
]

CXXOPTS = [
    "-std=c++17",
    "-D_GNU_SOURCE",
    "-Wall",
    "-Wextra",
    "-Wno-missing-field-initializers",
]

def haul_library(name, copts = [], **kwargs):
    native.cc_library(name = name, copts = COPTS + copts, **kwargs)

def haul_binary(name, copts = [], **kwargs):
    native.cc_binary(name = name, copts = COPTS + copts, **kwargs)

# The environment of tests that count what malloc has given out: what a thread's cache holds counts as that,
# and each arena has a head of its own.
COUNTED_HEAP = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1"}

_EVERY_TEST = [
    "//tests:waiting",
    "@gtest",
]

def haul_test(name, size, srcs = None, deps = [], copts = [], **kwargs):
    """A C++ googletest program over C code: NAME.cc, if nothing else is said. Every test states its size."""
    native.cc_test(
        name = name,
        size = size,
        srcs = srcs or [name + ".cc"],
        copts = CXXOPTS + copts,
        deps = deps + _EVERY_TEST,
        **kwargs
    )

def haul_qemu_test(name, size = "large", **kwargs):
    """One that moves QEMU machines: alone on this machine, and not under sanitizers."""
    haul_test(name = name, size = size, tags = ["exclusive", "qemu"], **kwargs)

def haul_test_library(name, hdrs, srcs = [], deps = [], **kwargs):
    """C++ that several tests share, in this folder or another."""
    native.cc_library(
        name = name,
        testonly = True,
        srcs = srcs,
        hdrs = hdrs,
        copts = CXXOPTS,
        visibility = ["//tests:__subpackages__"],
        deps = deps + _EVERY_TEST,
        **kwargs
    )

def haul_benchmark(name, srcs, deps = [], **kwargs):
    """A Google Benchmark program; run it with `bazel run -c opt`."""
    native.cc_binary(
        name = name,
        srcs = srcs,
        copts = CXXOPTS,
        deps = deps + ["@benchmark"],
        **kwargs
    )
