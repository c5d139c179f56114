// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_TOOLS_QMP_TEST_SERVER_H
#define HAUL_TESTS_TOOLS_QMP_TEST_SERVER_H

// A QMP server with a few commands of its own, on a socket in a folder of its own.

#include "tests/tools/qmp/client.h"
#include "tools/qmp/server.h"

#include <atomic>
#include <string>

class TestServer
{
  public:
    // Limits may be changed by `change` before the server is made.
    explicit TestServer(void (*change)(haul_qmp_server_options &) = nullptr);
    ~TestServer();
    TestServer(const TestServer &) = delete;

    const std::string &path() const
    {
        return path_;
    }
    haul_qmp_server *server() const
    {
        return server_;
    }
    void stop(); // frees the server

    std::atomic<int> calls{0};

  private:
    std::string folder_, path_;
    haul_qmp_server *server_ = nullptr;
};

#endif
