/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/haul/options.h"

#define SEND (1U << CLI_SEND)
#define RECEIVE (1U << CLI_RECEIVE)
#define TOPOLOGY (1U << CLI_TOPOLOGY)
#define DAEMON (1U << CLI_DAEMON)
#define CONTROL (1U << CLI_QUERY | 1U << CLI_SET | 1U << CLI_CANCEL | 1U << CLI_CONTINUE | 1U << CLI_WATCH)
#define SHOW (1U << CLI_QUERY | 1U << CLI_WATCH)
#define RECOVER (1U << CLI_RESUME | 1U << CLI_ABANDON)
#define RELAY (1U << CLI_RELAY)
#define RESTORE (1U << CLI_RESTORE)
#define INSPECT (1U << CLI_INSPECT)
#define SNAPSHOT (1U << CLI_SNAPSHOT)
#define FIELD(name) .offset = offsetof(struct cli_options, name)

/* In the order in which help shows them. */
const struct cli_option cli_option_table[] = {
    {"listen", "URI", RECEIVE, CLI_OPTION_TEXT, FIELD(uri),
     .help = "Where to wait for the source: tcp:ADDR:PORT (port 0 takes a free one), unix:PATH, "
             "rdma:ADDR:PORT, exec:COMMAND or "
             "fd:CONTROL,CHANNEL.... The real "
             "address "
             "is printed on standard error as \"listening on URI\"."},
    {"qemu", "QMP", SEND | RECEIVE | RESTORE | RECOVER | SNAPSHOT, CLI_OPTION_TEXT, FIELD(qmp),
     .help = "A QEMU machine, by the path of its QMP socket."},
    {"disks", NULL, SEND | RECEIVE, CLI_OPTION_SET, FIELD(disks), .needs = "qemu",
     .help = "Move the machine's writable drives too, where the hosts do not share storage. At the "
             "destination, an image of the same size must be there for each, and is overwritten. Needed on "
             "both sides."},
    {"memory", "PATH", SEND | RECEIVE | RESTORE | SNAPSHOT, CLI_OPTION_TEXT, FIELD(memory),
     .help = "A shared memory object: a file in a tmpfs or hugetlbfs, or /proc/PID/fd/N of a memfd."},
    {"pid", "PID", SEND | SNAPSHOT, CLI_OPTION_NUMBER, FIELD(pid), .minimum = 1, .maximum = INT32_MAX,
     .needs = "memory",
     .help = "The process that writes the memory; it is stopped for the switchover, or for the moment of a "
             "snapshot, which needs it. Without it the memory "
             "must be "
             "at rest."},
    {"memory-size", "SIZE", RECEIVE | RESTORE, CLI_OPTION_SIZE, FIELD(memory_size), .minimum = 4096,
     .needs = "memory",
     .help =
         "Create the file with this size; it is removed again when the move fails. Without it the file must "
         "exist with the source's size."},
    {"guest", NULL, SEND | RECEIVE | RESTORE | SNAPSHOT, CLI_OPTION_SET, FIELD(guest),
     .help =
         "The reference guest: a small machine inside this process that writes memory and checks itself."},

    {"mode", "MODE", SEND | RECEIVE, CLI_OPTION_CHOICE, FIELD(haul.mode), .choices = "normal|cpr-transfer",
     .help = "normal (default), or cpr-transfer: both sides are on this host and the memory itself is handed "
             "over, in no time, by unix:PATH. haul receive follows the source; told the mode, it allocates "
             "nothing ahead."},
    {"channels", "N", SEND | RESTORE | INSPECT | TOPOLOGY | SNAPSHOT, CLI_OPTION_NUMBER, FIELD(haul.channels),
     .minimum = 1, .maximum = 128,
     .help = "Parallel connections, each with its own thread, or threads that write or read a file: 1 to "
             "128 (default 2)."},
    {"compress", "MODE", SEND, CLI_OPTION_CHOICE, FIELD(haul.compress), .choices = haul_compress_names,
     .help = "none (default), lz4, or auto, which decides for each batch of pages."},
    {"downtime-limit", "MS", SEND, CLI_OPTION_NUMBER, FIELD(haul.downtime_limit_ms), .maximum = 2000000,
     .help = "The longest that the guest may stand still, in milliseconds: 0 to 2000000 (default 300)."},
    {"max-bandwidth", "RATE", SEND | SNAPSHOT, CLI_OPTION_SIZE, FIELD(haul.max_bandwidth_bytes_per_s),
     .help = "Cap over all channels, in bytes per second; 0 (default) is none. Of a snapshot: for what no "
             "write waits for."},
    {"switchover-bandwidth", "RATE", SEND, CLI_OPTION_SIZE, FIELD(haul.switchover_bandwidth_bytes_per_s),
     .help = "Bytes per second to reckon with for the switchover, in place of the estimate; 0 (default) is "
             "none."},
    {"max-rounds", "N", SEND, CLI_OPTION_NUMBER, FIELD(haul.max_rounds), .maximum = 1000000000,
     .help = "Give up after N rounds when the guest writes faster than the link carries; 0 (default) never "
             "does."},
    {"auto-converge", NULL, SEND, CLI_OPTION_SET, FIELD(haul.auto_converge),
     .help =
         "Slow the guest down when the move would not come to an end otherwise; refused for a QEMU machine."},
    {"verify", NULL, SEND, CLI_OPTION_SET, FIELD(haul.verify),
     .help = "Hash both sides' memory while the guest is stopped; a difference fails the move and the guest "
             "goes on "
             "here. Adds to the downtime."},
    {"placement", "HOW", SEND | RECEIVE | RESTORE | TOPOLOGY | SNAPSHOT, CLI_OPTION_TEXT,
     FIELD(haul.placement),
     .help = "Where channel threads run: auto (default), none, or a CPU list such as 0-3,8."},
    {"bind", "ADDR[,ADDR...]", SEND, CLI_OPTION_TEXT, FIELD(haul.bind),
     .help = "With tcp:, this host's addresses to connect from; channels take them in turn, in step with the "
             "addresses of URI."},
    {"rdma-provider", "NAME", SEND | RECEIVE, CLI_OPTION_TEXT, FIELD(haul.rdma_provider),
     .help = "With rdma:, the provider of libfabric to use, the same on both sides: verbs, \"tcp;ofi_rxm\"; "
             "fi_info(1) lists them. Without it the best at the address, as haul receive sees it."},
    {"ssh", "COMMAND", SEND, CLI_OPTION_TEXT, FIELD(haul.ssh),
     .help =
         "With ssh:, what to run in place of ssh, with options: \"ssh -i KEY -c aes128-gcm@openssh.com\"."},
    {"remote-haul", "PATH", SEND, CLI_OPTION_TEXT, FIELD(haul.remote_haul),
     .help = "With ssh:, the program on the other host (default haul)."},
    {"timeout", "S", SEND | RECEIVE | RELAY, CLI_OPTION_NUMBER, FIELD(haul.timeout_s), .minimum = 1,
     .maximum = 3600,
     .help = "Seconds to allow for connecting, and for a silent peer: 1 to 3600 (default 30)."},
    {"direct-io", NULL, SEND | RESTORE | INSPECT | SNAPSHOT, CLI_OPTION_SET, FIELD(haul.direct_io),
     .help = "With file:, write and read memory past the page cache (O_DIRECT), which leaves the cache to "
             "others."},
    {"no-populate", NULL, RECEIVE, CLI_OPTION_CLEAR, FIELD(haul.populate),
     .help = "Do not allocate the memory ahead of the data. Slower, but memory that the guest never touched "
             "stays "
             "unallocated."},
    {"json", NULL, SEND | RECEIVE | RESTORE | INSPECT | SHOW | SNAPSHOT, CLI_OPTION_SET, FIELD(json),
     .help = "Print JSON on standard output in place of text, also after a failure: one object at the end; "
             "haul query prints one value, haul watch one line a second."},
    {"quiet", NULL, SEND | RECEIVE | RESTORE | SNAPSHOT, CLI_OPTION_SET, FIELD(quiet),
     .help = "No progress and no remarks; errors and the final report remain."},
    {"to", "HOST", TOPOLOGY, CLI_OPTION_TEXT, FIELD(to),
     .help = "Plan for the network card that leads to HOST."},

    {"qmp", "ADDRESS", CONTROL | DAEMON, CLI_OPTION_TEXT, FIELD(control),
     .help = "The daemon's control socket, unix:PATH; by default /run/haul.sock for root, else "
             "$XDG_RUNTIME_DIR/haul.sock."},

    {"list", NULL, RECOVER, CLI_OPTION_SET, FIELD(list),
     .help = "Show the moves recorded on this host and how far they came, and do nothing else."},

    {"guest-memory", "SIZE", SEND | RECEIVE | RESTORE | SNAPSHOT, CLI_OPTION_SIZE,
     FIELD(guest_options.memory_bytes), .minimum = 1 << 20, .needs = "guest",
     .help = "Its memory (default 256M), the same on both sides."},
    {"guest-dirty-rate", "RATE", SEND | SNAPSHOT, CLI_OPTION_SIZE, FIELD(guest_options.dirty_bytes_per_s),
     .needs = "guest",
     .help = "Bytes of memory that it writes per second (default 100M); 0 writes nothing after its start."},
    {"guest-hot-set", "SIZE", SEND | SNAPSHOT, CLI_OPTION_SIZE, FIELD(guest_options.hot_bytes),
     .needs = "guest", .help = "The part of memory that it writes again and again (default a quarter)."},
    {"guest-content", "KIND", SEND | SNAPSHOT, CLI_OPTION_CHOICE, FIELD(guest_options.content),
     .choices = "random|text", .needs = "guest",
     .help = "What it writes: random (default), or text, which compresses."},
    {"guest-zero", "PERCENT", SEND | SNAPSHOT, CLI_OPTION_NUMBER, FIELD(guest_options.zero_percent),
     .maximum = 100, .needs = "guest", .help = "Share of pages that hold zeros (default 25)."},
    {"guest-untouched", "PERCENT", SEND | SNAPSHOT, CLI_OPTION_NUMBER, FIELD(guest_options.untouched_percent),
     .maximum = 100, .needs = "guest", .help = "Share of pages that it never touches (default 0)."},
    {"guest-tracker", "NAME", SEND | RECEIVE | RESTORE, CLI_OPTION_CHOICE, FIELD(guest_options.tracker),
     .choices = "auto|kvm-log|kvm-ring|uffd|bitmap|soft-dirty", .needs = "guest",
     .help = "How its writes are found: auto (default), kvm-log, kvm-ring, uffd, bitmap or soft-dirty."},
    {"guest-vcpu", "KIND", SEND | RECEIVE | RESTORE | SNAPSHOT, CLI_OPTION_CHOICE, FIELD(guest_options.vcpu),
     .choices = "auto|kvm|thread", .needs = "guest",
     .help = "What runs it: kvm, thread, or auto (default), which takes kvm where it works."},
    {"guest-seed", "N", SEND | SNAPSHOT, CLI_OPTION_SIZE, FIELD(guest_options.seed), .needs = "guest",
     .help = "Seed of its content (default 1)."},
    {"disk", "PATH[,size=SIZE][,rate=RATE]", SEND | RECEIVE, CLI_OPTION_TEXT, FIELD(disk), .needs = "guest",
     .help =
         "A disk that moves along, by its image; both sides need one of the same size. haul send: with size= "
         "the image is created, else it is there and of a reference guest; rate= says how much the guest "
         "writes to it per second (default 10M). haul receive: with size= the image is created, else PATH is "
         "overwritten; it is called PATH.incomplete until the guest runs here."},
    {"run-for", "S", SEND | RECEIVE | RESTORE | SNAPSHOT, CLI_OPTION_NUMBER, FIELD(run_for_s),
     .maximum = 3600, .needs = "guest",
     .help =
         "How long the guest proves itself where it ended up, in seconds (default 3); 0 leaves that out."},
};

const unsigned cli_option_count = sizeof cli_option_table / sizeof *cli_option_table;
