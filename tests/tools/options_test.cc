#include "tools/haul/options.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace
{

struct Parsed {
    int status;
    std::string message;
    cli_options options;
};

/* Words live as long as the program: options point into them. */
char *Keep(const char *word)
{
    static std::deque<std::string> words;
    words.emplace_back(word);
    return words.back().data();
}

Parsed Parse(cli_command command, std::vector<const char *> words)
{
    std::vector<char *> arguments = {Keep(cli_command_name(command))};
    for (const char *word : words) {
        arguments.push_back(Keep(word));
    }
    arguments.push_back(nullptr);
    Parsed parsed = {};
    haul_error error = {};
    parsed.options.haul.channels = 2;
    parsed.options.haul.populate = true;
    parsed.options.haul.placement = "auto";
    parsed.options.run_for_s = 3;
    parsed.status = cli_options_parse(command, static_cast<int>(arguments.size()) - 1, arguments.data(),
                                      &parsed.options, &error);
    parsed.message = error.message;
    return parsed;
}

void ExpectRefused(cli_command command, std::vector<const char *> words, const char *message)
{
    Parsed parsed = Parse(command, words);
    EXPECT_EQ(parsed.status, -EINVAL) << message;
    EXPECT_EQ(parsed.message, message);
}

constexpr const char *kTo = "tcp:host:7000";

TEST(Parse, SendTakesEveryOptionAnywhere)
{
    Parsed parsed = Parse(CLI_SEND, {"--channels",
                                     "4",
                                     "--compress=lz4",
                                     kTo,
                                     "--qemu",
                                     "/run/qmp",
                                     "--downtime-limit",
                                     "50",
                                     "--max-bandwidth",
                                     "1G",
                                     "--switchover-bandwidth",
                                     "512M",
                                     "--max-rounds",
                                     "9",
                                     "--auto-converge",
                                     "--placement",
                                     "0-3,8",
                                     "--verify",
                                     "--timeout",
                                     "10",
                                     "--json",
                                     "--quiet"});
    ASSERT_EQ(parsed.status, 0) << parsed.message;
    const cli_options &options = parsed.options;
    EXPECT_STREQ(options.uri, kTo);
    EXPECT_STREQ(options.qmp, "/run/qmp");
    EXPECT_EQ(options.haul.channels, 4u);
    EXPECT_STREQ(options.haul.compress, "lz4");
    EXPECT_EQ(options.haul.downtime_limit_ms, 50u);
    EXPECT_EQ(options.haul.max_bandwidth_bytes_per_s, 1ull << 30);
    EXPECT_EQ(options.haul.switchover_bandwidth_bytes_per_s, 512ull << 20);
    EXPECT_EQ(options.haul.max_rounds, 9u);
    EXPECT_TRUE(options.haul.auto_converge);
    EXPECT_STREQ(options.haul.placement, "0-3,8");
    EXPECT_TRUE(options.haul.verify);
    EXPECT_EQ(options.haul.timeout_s, 10u);
    EXPECT_TRUE(options.json);
    EXPECT_TRUE(options.quiet);
}

TEST(Parse, SendTakesTheGuestsOptions)
{
    Parsed parsed = Parse(CLI_SEND, {kTo,
                                     "--guest",
                                     "--guest-memory",
                                     "64M",
                                     "--guest-dirty-rate",
                                     "0",
                                     "--guest-hot-set",
                                     "8M",
                                     "--guest-content",
                                     "text",
                                     "--guest-zero",
                                     "100",
                                     "--guest-untouched",
                                     "5",
                                     "--guest-tracker",
                                     "kvm-ring",
                                     "--guest-vcpu",
                                     "thread",
                                     "--guest-seed",
                                     "42",
                                     "--run-for",
                                     "0"});
    ASSERT_EQ(parsed.status, 0) << parsed.message;
    const haul_guest_options &guest = parsed.options.guest_options;
    EXPECT_TRUE(parsed.options.guest);
    EXPECT_EQ(guest.memory_bytes, 64ull << 20);
    EXPECT_EQ(guest.dirty_bytes_per_s, 0u);
    EXPECT_EQ(guest.hot_bytes, 8ull << 20);
    EXPECT_STREQ(guest.content, "text");
    EXPECT_EQ(guest.zero_percent, 100u);
    EXPECT_EQ(guest.untouched_percent, 5u);
    EXPECT_STREQ(guest.tracker, "kvm-ring");
    EXPECT_STREQ(guest.vcpu, "thread");
    EXPECT_EQ(guest.seed, 42u);
    EXPECT_EQ(parsed.options.run_for_s, 0u);
}

TEST(Parse, MemoryWithPidAndReceiveWithSize)
{
    Parsed parsed = Parse(CLI_SEND, {"unix:/run/x", "--memory", "/dev/shm/m", "--pid", "12"});
    ASSERT_EQ(parsed.status, 0) << parsed.message;
    EXPECT_EQ(parsed.options.pid, 12u);
    parsed = Parse(CLI_RECEIVE, {"--listen", "tcp:[::1]:0", "--memory", "/dev/shm/m", "--memory-size", "1G",
                                 "--no-populate"});
    ASSERT_EQ(parsed.status, 0) << parsed.message;
    EXPECT_EQ(parsed.options.memory_size, 1ull << 30);
    EXPECT_FALSE(parsed.options.haul.populate);
    EXPECT_STREQ(parsed.options.uri, "tcp:[::1]:0");
}

TEST(Parse, ResumeTakesAnIdOrAQmpSocketOrNothing)
{
    EXPECT_EQ(Parse(CLI_RESUME, {}).status, 0);
    EXPECT_STREQ(Parse(CLI_RESUME, {"abcd"}).options.id, "abcd");
    EXPECT_STREQ(Parse(CLI_ABANDON, {"--qemu", "/run/qmp"}).options.qmp, "/run/qmp");
    ExpectRefused(CLI_ABANDON, {"abcd", "--qemu", "/run/qmp"},
                  "an ID and --qemu exclude each other: either names the move");
    EXPECT_TRUE(Parse(CLI_RESUME, {"--list"}).options.list);
    ExpectRefused(CLI_RESUME, {"--list", "abcd"},
                  "option --list shows all moves and takes no ID and no --qemu");
}

TEST(Parse, HelpStopsAllChecks)
{
    for (cli_command command : {CLI_SEND, CLI_RECEIVE, CLI_TOPOLOGY, CLI_RESUME, CLI_ABANDON}) {
        for (const char *word : {"--help", "-h"}) {
            Parsed parsed = Parse(command, {word});
            EXPECT_EQ(parsed.status, 0) << parsed.message;
            EXPECT_TRUE(parsed.options.help);
        }
    }
}

TEST(Refuse, UnknownAmbiguousAndMisplacedOptions)
{
    ExpectRefused(CLI_SEND, {"--fast"}, "unknown option '--fast'");
    ExpectRefused(CLI_SEND, {"--fast=1"}, "unknown option '--fast'");
    ExpectRefused(CLI_SEND, {"-x"}, "unknown option '-x'");
    ExpectRefused(CLI_SEND, {"--guest-"}, "ambiguous option '--guest-'");
    ExpectRefused(CLI_SEND, {kTo, "--guest", "--listen", "tcp:a:1"},
                  "option --listen belongs to 'haul receive', not to 'haul send'");
    ExpectRefused(CLI_RECEIVE, {"--listen", "tcp:a:1", "--guest", "--channels", "4"},
                  "option --channels belongs to 'haul send', not to 'haul receive'");
    ExpectRefused(CLI_RECEIVE, {"--guest-seed", "4"},
                  "option --guest-seed belongs to 'haul send', not to 'haul receive'");
    ExpectRefused(CLI_SEND, {"--json=1"}, "option --json takes no value");
}

TEST(Refuse, MissingValues)
{
    ExpectRefused(CLI_SEND, {kTo, "--guest", "--channels"}, "option --channels needs a value: --channels N");
    ExpectRefused(CLI_SEND, {kTo, "--qemu", ""}, "option --qemu needs a value: --qemu QMP");
    ExpectRefused(CLI_RECEIVE, {"--guest", "--listen"}, "option --listen needs a value: --listen URI");
}

TEST(Refuse, NumbersOutOfRange)
{
    ExpectRefused(CLI_SEND, {"--channels", "0"}, "option --channels takes a number from 1 to 128, not '0'");
    ExpectRefused(CLI_SEND, {"--channels", "129"},
                  "option --channels takes a number from 1 to 128, not '129'");
    ExpectRefused(CLI_SEND, {"--channels", "-1"}, "option --channels takes a number from 1 to 128, not '-1'");
    ExpectRefused(CLI_SEND, {"--channels", "4x"}, "option --channels takes a number from 1 to 128, not '4x'");
    ExpectRefused(CLI_SEND, {"--downtime-limit", "2000001"},
                  "option --downtime-limit takes a number from 0 to 2000000, not '2000001'");
    ExpectRefused(CLI_SEND, {"--timeout", "0"}, "option --timeout takes a number from 1 to 3600, not '0'");
    ExpectRefused(CLI_SEND, {"--guest-zero", "101"},
                  "option --guest-zero takes a number from 0 to 100, not '101'");
    ExpectRefused(CLI_SEND, {"--pid", "0"}, "option --pid takes a number from 1 to 2147483647, not '0'");
}

TEST(Refuse, SizesAndChoices)
{
    ExpectRefused(CLI_SEND, {"--max-bandwidth", "fast"},
                  "option --max-bandwidth takes a number of bytes such as 256M (K, M, G, T), not 'fast'");
    ExpectRefused(CLI_SEND, {"--max-bandwidth", "99999999T"},
                  "option --max-bandwidth takes less than 16384P, not '99999999T'");
    ExpectRefused(CLI_SEND, {"--guest-memory", "4K"},
                  "option --guest-memory takes at least 1.00 MiB, not '4K'");
    ExpectRefused(CLI_SEND, {"--compress", "zip"}, "option --compress takes none|lz4|auto, not 'zip'");
    ExpectRefused(CLI_SEND, {"--compress", "lz"}, "option --compress takes none|lz4|auto, not 'lz'");
    ExpectRefused(CLI_SEND, {"--guest-content", "noise"},
                  "option --guest-content takes random|text, not 'noise'");
    ExpectRefused(CLI_TOPOLOGY, {"--placement", "all"},
                  "option --placement takes auto, none or a CPU list such as 0-3,8, not 'all'");
}

TEST(Refuse, OptionsThatDoNotGoTogether)
{
    ExpectRefused(CLI_SEND, {kTo}, "say what to move: --qemu QMP, --memory PATH or --guest");
    ExpectRefused(CLI_SEND, {kTo, "--qemu", "/q", "--guest"},
                  "options --qemu and --guest exclude each other: one machine moves at a time");
    ExpectRefused(CLI_SEND, {kTo, "--memory", "/m", "--guest"},
                  "options --memory and --guest exclude each other: one machine moves at a time");
    ExpectRefused(CLI_SEND, {kTo, "--qemu", "/q", "--pid", "3"}, "option --pid needs --memory");
    ExpectRefused(CLI_SEND, {kTo, "--qemu", "/q", "--guest-seed", "3"}, "option --guest-seed needs --guest");
    ExpectRefused(CLI_RECEIVE, {"--listen", "tcp:a:1", "--guest", "--memory-size", "1G"},
                  "option --memory-size needs --memory");
}

TEST(Refuse, OperandsAndAddresses)
{
    ExpectRefused(CLI_SEND, {"--guest"}, "say where to: haul send tcp:HOST:PORT");
    ExpectRefused(CLI_SEND, {kTo, "again", "--guest"}, "'again' is one word too many");
    ExpectRefused(CLI_TOPOLOGY, {"now"}, "'now' is one word too many");
    ExpectRefused(CLI_DAEMON, {"web"}, "'web' is one word too many");
    ExpectRefused(CLI_RECEIVE, {"--guest"}, "say where to wait: --listen tcp:ADDR:PORT");
    ExpectRefused(CLI_RECEIVE, {kTo, "--guest"}, "'tcp:host:7000' is one word too many");
    for (const char *uri : {"host:7000", "tcp:7000", "tcp::7000", "tcp:host:", "tcp:host:0", "tcp:host:65536",
                            "tcp:::1:7000", "tcp:host:70x", "unix:", "udp:host:1", ""}) {
        Parsed parsed = Parse(CLI_SEND, {uri, "--guest"});
        EXPECT_EQ(parsed.status, -EINVAL) << uri;
        EXPECT_EQ(parsed.message.find("\"" + std::string(uri) + "\" is not a"), 0u) << parsed.message;
        EXPECT_NE(parsed.message.find(": use "), std::string::npos) << parsed.message;
    }
}

// ---- what haul send ssh: lets the other host receive ----

TEST(Remote, IsTheSameMachineWithoutWordsOfItsOwn)
{
    Parsed qemu = Parse(CLI_SEND, {"ssh:there", "--qemu", "/it's", "--disks"});
    EXPECT_STREQ(qemu.options.remote.line, R"('--qemu' '/it'\''s' '--disks')") << qemu.message;
    Parsed guest = Parse(CLI_SEND, {"ssh:there", "--guest", "--guest-memory", "64M"});
    EXPECT_STREQ(guest.options.remote.line, "'--guest' '--guest-memory' '67108864'") << guest.message;
    Parsed words = Parse(CLI_SEND, {"ssh:there", "--guest", "--", "--qemu", "/q"});
    EXPECT_STREQ(words.options.remote.line, "'--qemu' '/q'") << words.message;
}

TEST(Remote, ADiskNeedsAPlaceThere)
{
    ExpectRefused(CLI_SEND, {"ssh:there", "--guest", "--disk", "/d"},
                  "with --disk the other host needs an image too: end the line with -- --guest --disk "
                  "PATH,size=SIZE");
    ExpectRefused(CLI_SEND, {"ssh:there", "--guest", "--disk", "/d", "--", "--guest", "--diskette"},
                  "with --disk the other host needs an image too: end the line with -- --guest --disk "
                  "PATH,size=SIZE, beside the other options there");
    for (const char *given : {"--disk=/e", "--disk"}) {
        Parsed parsed = Parse(CLI_SEND, {"ssh:there", "--guest", "--disk", "/d", "--", "--guest", given});
        EXPECT_EQ(parsed.status, 0) << parsed.message;
    }
}

TEST(Remote, DrivesAreOverwrittenThereByConsentOnly)
{
    ExpectRefused(
        CLI_SEND, {"ssh:there", "--qemu", "/q", "--disks", "--", "--qemu", "/r"},
        "--disks is needed on both sides: say it after -- too, and the images there are overwritten");
    Parsed parsed =
        Parse(CLI_SEND, {"ssh:there", "--qemu", "/q", "--disks", "--", "--qemu", "/r", "--disks"});
    EXPECT_EQ(parsed.status, 0) << parsed.message;
}

TEST(Table, FitsTheParserAndNamesNothingTwice)
{
    EXPECT_LE(cli_option_count, 62u);
    for (unsigned i = 0; i < cli_option_count; i++) {
        const cli_option &option = cli_option_table[i];
        bool has_value = option.type != CLI_OPTION_SET && option.type != CLI_OPTION_CLEAR;
        EXPECT_EQ(option.value != nullptr, has_value) << option.name;
        EXPECT_EQ(option.choices != nullptr, option.type == CLI_OPTION_CHOICE) << option.name;
        for (unsigned j = 0; j < i; j++) {
            EXPECT_STRNE(option.name, cli_option_table[j].name);
        }
    }
}

TEST(Help, ShowsEachOptionOfTheCommandWithin80Columns)
{
    for (unsigned c = 0; c < CLI_COMMAND_COUNT; c++) {
        char *text = nullptr;
        size_t size = 0;
        FILE *out = open_memstream(&text, &size);
        cli_help_print(static_cast<cli_command>(c), out);
        fclose(out);
        std::string help(text, size);
        free(text);
        for (unsigned i = 0; i < cli_option_count; i++) {
            std::string form = std::string("\n  --") + cli_option_table[i].name;
            bool shown =
                help.find(form + " ") != std::string::npos || help.find(form + "\n") != std::string::npos;
            EXPECT_EQ(shown, (cli_option_table[i].commands >> c & 1) != 0) << cli_option_table[i].name << "\n"
                                                                           << help;
        }
        std::istringstream lines(help);
        for (std::string line; std::getline(lines, line);) {
            EXPECT_LE(line.size(), 80u) << line;
            EXPECT_TRUE(line.empty() || line.back() != ' ') << '"' << line << '"';
        }
    }
}

/* The manual documents what there is, and nothing else. */
TEST(Manual, HasEveryOptionAndEveryCommand)
{
    std::ifstream manual("docs/haul.1");
    std::set<std::string> options, words;
    ASSERT_TRUE(manual.is_open());
    for (std::string line; std::getline(manual, line);) {
        std::istringstream text(line);
        std::string macro, word;
        text >> macro;
        bool item = macro == ".It";
        while (text >> word) {
            words.insert(macro + " " + word);
            if (item && word == "Fl" && text >> word && word == "Fl" && text >> word) {
                options.insert(word);
            }
        }
    }
    EXPECT_EQ(options.erase("help"), 1u); /* has no entry in the table */
    for (unsigned i = 0; i < cli_option_count; i++) {
        EXPECT_EQ(options.erase(cli_option_table[i].name), 1u)
            << "the manual lacks --" << cli_option_table[i].name;
    }
    for (const std::string &name : options) {
        ADD_FAILURE() << "the manual has --" << name << ", which does not exist";
    }
    for (unsigned c = 0; c < CLI_COMMAND_COUNT; c++) {
        std::string name = cli_command_name(static_cast<cli_command>(c));
        EXPECT_EQ(words.count(".Cm " + name), 1u) << "the manual lacks haul " << name;
    }
}

} // namespace
