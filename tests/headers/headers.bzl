"""Compiles a header alone, as C and as C++, as the first include of a program that defines no feature macros."""

_STRICT = [
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wundef",
]

_LANGUAGES = {
    "c": ["-std=c11"],
    "cc": ["-std=c++11"],
}

def _compile(name, language, header, deps):
    source = "%s_alone.%s" % (name, language)
    native.genrule(
        name = "%s_%s_source" % (name, language),
        outs = [source],
        # Twice, for the include guard.
        cmd = "printf '#include \"%s\"\\n#include \"%s\"\\n' > $@" % (header, header),
    )
    native.cc_library(
        name = "%s_%s" % (name, language),
        srcs = [source],
        copts = _STRICT + _LANGUAGES[language],
        deps = deps,
    )
    return ":%s_%s" % (name, language)

def headers_alone(name, headers):
    """A library that builds only if every one of `headers` (path: target) compiles alone."""
    deps = []
    for header, target in headers.items():
        id = header.replace("/", "_").replace(".", "_")
        for language in _LANGUAGES:
            deps.append(_compile(id, language, header, [target]))
    native.cc_library(name = name, deps = deps)
