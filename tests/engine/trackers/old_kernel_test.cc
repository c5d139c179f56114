// SPDX-License-Identifier: Apache-2.0
// The soft-dirty tracker's tests under Debian 12's own kernel, which is too old for the other tracker, in
// QEMU.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <string>

#include <glob.h>
#include <unistd.h>

namespace
{

// Runs a shell command; its output.
std::string run(const std::string &command)
{
    std::string output;
    std::array<char, 4096> buffer;
    FILE *pipe = popen((command + " 2>&1").c_str(), "r");
    while (size_t length = pipe ? fread(buffer.data(), 1, buffer.size(), pipe) : 0) {
        output.append(buffer.data(), length);
    }
    if (pipe) {
        pclose(pipe);
    }
    return output;
}

// The kernel of linux-image-cloud-amd64, if it is one of those before 6.7 with soft-dirty bits.
std::string old_kernel()
{
    glob_t found = {};
    std::string kernel;
    if (glob("/boot/vmlinuz-6.1.*cloud*", 0, nullptr, &found) == 0) {
        kernel = found.gl_pathv[found.gl_pathc - 1];
    }
    globfree(&found);
    return kernel;
}

TEST(OldKernel, PassesTheSoftDirtyTests)
{
    std::string kernel = old_kernel();
    if (kernel.empty()) {
        GTEST_SKIP() << "no /boot/vmlinuz-6.1.*cloud* (package linux-image-cloud-amd64 of Debian 12)";
    }
    for (const char *tool : {"/usr/bin/qemu-system-x86_64", "/usr/bin/cpio", "/bin/busybox"}) {
        if (access(tool, X_OK)) {
            GTEST_SKIP() << "no " << tool << " (packages qemu-system-x86, cpio, busybox-static)";
        }
    }
    std::string root = testing::TempDir() + "/root";
    std::string program = "tests/engine/trackers/soft_dirty_test";
    std::string made =
        run("set -e; rm -rf '" + root + "'; mkdir -p '" + root + "'/proc '" + root +
            "'/dev; cp -L /bin/busybox " + program + " '" + root + "'; for f in $(ldd " + program +
            " | grep -o '/[^ ]*'); do mkdir -p \"" + root + "/$(dirname $f)\"; cp -L $f \"" + root +
            "$f\"; done; printf '%s\\n' '#!/busybox sh' '/busybox mount -t proc proc /proc' "
            "/soft_dirty_test 'echo status $?' '/busybox poweroff -f' > '" +
            root + "/init'; chmod +x '" + root + "/init'; cd '" + root +
            "'; find . | cpio -o -H newc --quiet > ../initrd; echo made");
    ASSERT_EQ(made, "made\n");
    std::string console = run("timeout 600 qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 512 -nodefaults "
                              "-display none -serial stdio "
                              "-no-reboot -kernel " +
                              kernel + " -initrd '" + testing::TempDir() +
                              "/initrd' -append 'console=ttyS0 quiet panic=-1' < /dev/null");
    EXPECT_NE(console.find("status 0"), std::string::npos) << console;
    EXPECT_NE(console.find("PASSED"), std::string::npos) << console;
    EXPECT_EQ(console.find("SKIPPED"), std::string::npos) << console;
}

} // namespace
