/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_TOOLS_DESCRIPTORS_H
#define TESTS_TOOLS_DESCRIPTORS_H

#include <string>
#include <sys/types.h>
#include <vector>

/* Connections between two programs that inherit their ends, for fd:. */
class Descriptors
{
  public:
    enum Kind {
        kSockets,
        kPipes,       /* two for each connection */
        kRelayedPipes /* each with a process in the middle, which Cut can end */
    };
    Descriptors(Kind kind, unsigned count);
    ~Descriptors();
    Descriptors(const Descriptors &) = delete;

    /* What each program has to inherit, and how its URI names them. */
    const std::vector<int> &Source() const
    {
        return source_;
    }
    const std::vector<int> &Destination() const
    {
        return destination_;
    }
    std::string SourceUri() const;
    std::string DestinationUri() const;

    /* Both programs have theirs: from now on the death of one closes its end. */
    void CloseOwn();
    /* Before anybody has them: the source's lead nowhere. */
    void CloseDestination();
    /* Breaks every connection at once: sockets that are not closed here yet, or relayed pipes. */
    void Cut();

  private:
    void MakePipe(std::vector<int> *from, std::vector<int> *to);
    std::string Uri(const std::vector<int> &fds) const;
    Kind kind_;
    std::vector<int> source_, destination_;
    std::vector<pid_t> relays_;
    bool open_ = true;
};

#endif
