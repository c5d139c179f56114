// SPDX-License-Identifier: Apache-2.0
#include "tests/tools/qmp/test_server.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <unistd.h>

namespace
{

// Answers with its arguments.
int echo(void *opaque, json_t *arguments, json_t **result, haul_qmp_failure *)
{
    static_cast<TestServer *>(opaque)->calls++;
    *result = json_incref(arguments);
    return 0;
}

int nothing(void *opaque, json_t *, json_t **, haul_qmp_failure *)
{
    static_cast<TestServer *>(opaque)->calls++;
    return 0;
}

int refuse(void *, json_t *, json_t **, haul_qmp_failure *failure)
{
    return haul_qmp_fail(failure, EBUSY, "There's a migration process in progress");
}

// A sentence that is no UTF-8, as a file's name may make it.
int latin(void *, json_t *, json_t **, haul_qmp_failure *failure)
{
    return haul_error_set(&failure->error, EIO, "no file called caf\xe9");
}

int raise(void *opaque, json_t *, json_t **, haul_qmp_failure *)
{
    haul_qmp_server_event(static_cast<TestServer *>(opaque)->server(), "STOP", nullptr);
    return 0;
}

int big(void *, json_t *, json_t **result, haul_qmp_failure *)
{
    *result = json_string(std::string(100000, 'x').c_str());
    return 0;
}

int getfd(void *opaque, json_t *, json_t **result, haul_qmp_failure *failure)
{
    int fd = haul_qmp_server_take_fd(static_cast<TestServer *>(opaque)->server());
    if (fd < 0)
        return haul_qmp_fail(failure, -fd, "No file descriptor supplied via SCM_RIGHTS");
    char text[16] = {};
    ssize_t count = read(fd, text, sizeof text - 1);
    close(fd);
    *result = json_string(count > 0 ? text : "");
    return 0;
}

const char *const kinds[] = {"one", "two", nullptr};

const haul_qmp_argument capability[] = {
    {"capability", HAUL_QMP_CHOICE, false, 0, kinds, nullptr},
    {"state", HAUL_QMP_BOOLEAN, false, 0, nullptr, nullptr},
    {},
};

const haul_qmp_argument arguments[] = {
    {"uri", HAUL_QMP_STRING, false, 0, nullptr, nullptr},
    {"detach", HAUL_QMP_BOOLEAN, true, 0, nullptr, nullptr},
    {"max-bandwidth", HAUL_QMP_UNSIGNED, true, 0, nullptr, nullptr},
    {"channels", HAUL_QMP_UNSIGNED, true, 128, nullptr, nullptr},
    {"kind", HAUL_QMP_CHOICE, true, 0, kinds, nullptr},
    {"capabilities", HAUL_QMP_ARRAY, true, 0, nullptr, capability},
    {"list", HAUL_QMP_ARRAY, true, 0, nullptr, nullptr},
    {"inner", HAUL_QMP_OBJECT, true, 0, nullptr, capability},
    {"any", HAUL_QMP_ANY, true, 0, nullptr, nullptr},
    {},
};

const haul_qmp_command commands[] = {
    {"echo", arguments, echo}, {"nothing", nullptr, nothing}, {"refuse", nullptr, refuse},
    {"latin", nullptr, latin}, {"raise", nullptr, raise},     {"big", nullptr, big},
    {"getfd", nullptr, getfd},
};

} // namespace

TestServer::TestServer(void (*change)(haul_qmp_server_options &))
{
    char folder[] = "/tmp/haul-qmp-XXXXXX";
    folder_ = mkdtemp(folder);
    path_ = folder_ + "/qmp";
    haul_error error{};
    haul_qmp_server_options options;
    haul_qmp_server_defaults(&options);
    std::string address = "unix:" + path_;
    options.address = address.c_str();
    options.package = "haul test";
    options.commands = commands;
    options.command_count = sizeof commands / sizeof *commands;
    options.opaque = this;
    if (change)
        change(options);
    EXPECT_EQ(0, haul_qmp_server_new(&options, &server_, &error)) << error.message;
    EXPECT_EQ(0, haul_qmp_server_start(server_, &error)) << error.message;
}

TestServer::~TestServer()
{
    stop();
    rmdir(folder_.c_str());
}

void TestServer::stop()
{
    haul_qmp_server_free(server_);
    server_ = nullptr;
}
