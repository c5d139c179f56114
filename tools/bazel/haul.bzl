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

def haul_test(name, size, srcs, deps = [], copts = [], **kwargs):
    """A C++ googletest program over C code, with tests/waiting.h at hand. Every test states its size."""
    native.cc_test(
        name = name,
        size = size,
        srcs = srcs,
        copts = CXXOPTS + copts,
        deps = deps + [
            "//tests:waiting",
            "@gtest",
        ],
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
