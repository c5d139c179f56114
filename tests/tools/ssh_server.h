/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_TOOLS_SSH_SERVER_H
#define TESTS_TOOLS_SSH_SERVER_H

/* An sshd of the test's own on loopback, with its own keys and settings, ended with the object. */

#include <string>
#include <sys/types.h>
#include <vector>

/* The processes whose parent is `parent`. */
std::vector<pid_t> Children(pid_t parent);

class SshServer
{
  public:
    SshServer();
    ~SshServer();
    SshServer(const SshServer &) = delete;
    SshServer &operator=(const SshServer &) = delete;

    /* Why it does not run, or empty. */
    const std::string &Missing() const
    {
        return missing_;
    }
    /* ssh:USER@127.0.0.1:PORT */
    std::string Uri() const;
    /* For --ssh: a client that trusts this server and that it lets in. */
    std::string Client() const;
    std::string Log() const;
    /* Breaks the connections that it serves. */
    void Cut();
    /* Ends the server and the connections that it serves. */
    void Kill();
    /* How many connections it serves. */
    int Connections() const;

  private:
    void Start();
    std::string folder_, missing_, user_;
    int port_ = 0;
    pid_t pid_ = -1;
};

#endif
