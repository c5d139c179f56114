"""Repositories for C and C++ libraries that the system's package manager installed."""

_BUILD = """
cc_library(
    name = "{name}",
    hdrs = glob(["include/**"]),
    includes = ["include"],
    linkopts = {linkopts},
    visibility = ["//visibility:public"],
)
"""

_PREFIXES = ["/usr/include", "/usr/include/x86_64-linux-gnu", "/usr/local/include"]

def _system_library_impl(ctx):
    for header in ctx.attr.headers:
        found = None
        for prefix in _PREFIXES:
            path = ctx.path(prefix + "/" + header)
            if path.exists:
                found = path
                break
        if not found:
            fail("%s: header %s is not installed; run tools/setup" % (ctx.name, header))
        ctx.symlink(found, "include/" + header)
    ctx.file("BUILD.bazel", _BUILD.format(name = ctx.name, linkopts = repr(ctx.attr.linkopts)))

system_library = repository_rule(
    implementation = _system_library_impl,
    attrs = {
        "headers": attr.string_list(mandatory = True, doc = "Headers or folders below the system include path."),
        "linkopts": attr.string_list(mandatory = True, doc = "Linker options that bring the library in."),
    },
    local = True,
    doc = "Exposes one installed library as @NAME//:NAME.",
)
