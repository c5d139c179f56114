/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/tools/ssh_server.h"

#include <gtest/gtest.h>

#include <arpa/inet.h>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <fstream>
#include <netinet/in.h>
#include <pwd.h>
#include <spawn.h>
#include <sstream>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace
{

const char kServer[] = "/usr/sbin/sshd";

int FreePort()
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    bind(fd, reinterpret_cast<sockaddr *>(&address), size);
    getsockname(fd, reinterpret_cast<sockaddr *>(&address), &size);
    close(fd);
    return ntohs(address.sin_port);
}

} // namespace

std::vector<pid_t> Children(pid_t parent)
{
    std::vector<pid_t> found;
    DIR *directory = opendir("/proc");
    for (dirent *entry; directory && (entry = readdir(directory));) {
        pid_t pid = atoi(entry->d_name);
        std::ifstream file(pid > 0 ? "/proc/" + std::to_string(pid) + "/stat" : "");
        std::ostringstream read;
        read << file.rdbuf(); // a process that ends meanwhile only leaves less to read
        std::string text = read.str();
        size_t name_end = text.rfind(')');
        if (name_end != std::string::npos && text.size() > name_end + 4 &&
            atoi(text.c_str() + name_end + 4) == parent) {
            found.push_back(pid);
        }
    }
    if (directory) {
        closedir(directory);
    }
    return found;
}

SshServer::SshServer()
{
    folder_ = ::testing::TempDir() + "/ssh.XXXXXX";
    if (!mkdtemp(folder_.data())) {
        missing_ = "no temporary directory";
        return;
    }
    if (access(kServer, X_OK) != 0 || system("command -v ssh ssh-keygen >/dev/null") != 0) {
        missing_ = "sshd or ssh is not installed (Debian packages openssh-server and openssh-client)";
        return;
    }
    const passwd *self = getpwuid(geteuid());
    user_ = self ? self->pw_name : "root";
    /* sshd insists on this folder when root runs it. */
    if (geteuid() == 0) {
        mkdir("/run/sshd", 0755);
    }
    std::string make = "ssh-keygen -q -t ed25519 -N '' -f " + folder_ +
                       "/host && ssh-keygen -q -t ed25519 -N '' -f " + folder_ + "/key";
    if (system(make.c_str()) != 0) {
        missing_ = "ssh-keygen makes no keys";
        return;
    }
    for (int attempt = 0; attempt < 5 && pid_ < 0; attempt++) {
        Start(); /* somebody else may take the port meanwhile */
    }
    if (pid_ < 0) {
        missing_ = "sshd does not start: " + Log();
    }
}

void SshServer::Start()
{
    port_ = FreePort();
    std::ofstream(folder_ + "/config") << "ListenAddress 127.0.0.1\nPort " << port_ << "\nHostKey " << folder_
                                       << "/host\nAuthorizedKeysFile " << folder_
                                       << "/key.pub\nPidFile none\nStrictModes no\nUsePAM no\n"
                                          "PasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 200\n";
    std::string config = folder_ + "/config", log = folder_ + "/log";
    const char *arguments[] = {kServer, "-D", "-f", config.c_str(), "-E", log.c_str(), nullptr};
    pid_t pid;
    if (posix_spawn(&pid, kServer, nullptr, nullptr, const_cast<char **>(arguments), environ) != 0) {
        return;
    }
    /* To connect would not tell who listens there: the port may be somebody else's by now. */
    const std::string listens = "listening on 127.0.0.1 port " + std::to_string(port_) + ".";
    for (int i = 0; i < 500; i++) {
        if (Log().find(listens) != std::string::npos) {
            pid_ = pid;
            return;
        }
        if (waitpid(pid, nullptr, WNOHANG) == pid) {
            return;
        }
        usleep(10000);
    }
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
}

SshServer::~SshServer()
{
    Kill();
}

void SshServer::Cut()
{
    for (pid_t child : Children(pid_)) {
        kill(child, SIGKILL);
    }
}

void SshServer::Kill()
{
    if (pid_ < 0) {
        return;
    }
    Cut();
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
}

int SshServer::Connections() const
{
    return pid_ < 0 ? 0 : static_cast<int>(Children(pid_).size());
}

std::string SshServer::Uri() const
{
    return "ssh:" + user_ + "@127.0.0.1:" + std::to_string(port_);
}

std::string SshServer::Client() const
{
    return "ssh -F none -i " + folder_ + "/key -o KexAlgorithms=curve25519-sha256 " + /* the quickest */
           "-o BatchMode=yes -o LogLevel=ERROR -o StrictHostKeyChecking=no " +
           "-o UserKnownHostsFile=" + folder_ + "/known";
}

std::string SshServer::Log() const
{
    std::ifstream file(folder_ + "/log");
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}
