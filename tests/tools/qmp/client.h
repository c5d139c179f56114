// SPDX-License-Identifier: Apache-2.0
#ifndef HAUL_TESTS_TOOLS_QMP_CLIENT_H
#define HAUL_TESTS_TOOLS_QMP_CLIENT_H

// A raw client of a QMP socket, for tests: it sends any bytes, and reads lines as JSON.

#include <jansson.h>

#include <memory>
#include <string>
#include <vector>

struct JsonFree {
    void operator()(json_t *json) const
    {
        json_decref(json);
    }
};
using Json = std::unique_ptr<json_t, JsonFree>;

class RawClient
{
  public:
    // Does not wait for the greeting; when it is `patient`, it waits until somebody listens there.
    explicit RawClient(const std::string &path, bool patient = false);
    ~RawClient();
    RawClient(const RawClient &) = delete;
    bool connected() const
    {
        return fd_ >= 0;
    }
    int fd() const
    {
        return fd_;
    }
    bool send(const std::string &bytes); // false: the other side has closed
    void send_with_fd(const std::string &bytes, int fd);
    void finish();                            // sends no more
    std::string line(int timeout_ms = 30000); // without its end; empty: closed, or nothing in time
    Json object(int timeout_ms = 30000);      // null: the same
    std::string ask(const std::string &bytes)
    {
        send(bytes + "\n");
        return line();
    }
    void negotiate(); // reads the greeting and leaves negotiation mode
    bool at_end();    // the server closed, after whatever it had sent

  private:
    int fd_;
    std::string buffer_;
};

#endif
