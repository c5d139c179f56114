/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HAUL_TESTS_ENGINE_TRACKERS_KVM_SUPPORT_H
#define HAUL_TESTS_ENGINE_TRACKERS_KVM_SUPPORT_H

#include "tests/engine/trackers/support.h"

#include <thread>

#include <linux/kvm.h>
#include <sys/ioctl.h>

// A virtual machine whose vCPUs run a few bytes of 32-bit code that increments one word per page.
class Vm
{
  public:
    static constexpr size_t kCode = 0x1000;    // where vCPU 0's code is; each next one a page higher
    static constexpr size_t kFirst = 0x100000; // the first page that the loop writes
    static constexpr size_t kSplit = 700;      // page at which the second slot starts: not a multiple of 64

    // Two slots, which split the memory at page kSplit.
    Vm(size_t pages, unsigned vcpus, uint32_t ring_bytes = 0) : memory(pages * kPage)
    {
        kvm_ = open("/dev/kvm", O_RDWR | O_CLOEXEC);
        vm = kvm_ < 0 ? -1 : ioctl(kvm_, KVM_CREATE_VM, 0);
        if (vm < 0) {
            why = std::string("no usable /dev/kvm: ") + strerror(errno);
            return;
        }
        if (ring_bytes && !enable_ring(ring_bytes)) {
            why = "this KVM has no dirty ring";
            return;
        }
        for (uint32_t i = 0; i < 2; i++) {
            haul_kvm_slot slot = {.slot = i + 3,
                                  .block = 0,
                                  .first_page = i * kSplit,
                                  .pages = i ? pages - kSplit : kSplit,
                                  .guest_physical_address = i * kSplit * kPage,
                                  .userspace_address =
                                      reinterpret_cast<uintptr_t>(memory.data() + i * kSplit * kPage)};
            slots.push_back(slot);
            set_slot(slot, 0);
        }
        for (unsigned i = 0; i < vcpus && why.empty(); i++) {
            add_vcpu(i);
        }
    }
    ~Vm()
    {
        end();
        for (size_t i = 0; i < vcpus.size(); i++) {
            munmap(runs_[i], run_bytes_);
            close(vcpus[i]);
        }
        close(vm);
        close(kvm_);
    }
    Vm(const Vm &) = delete;
    Vm &operator=(const Vm &) = delete;

    bool set_slot(const haul_kvm_slot &slot, uint32_t flags) const
    {
        kvm_userspace_memory_region region = {.slot = slot.slot,
                                              .flags = flags,
                                              .guest_phys_addr = slot.guest_physical_address,
                                              .memory_size = slot.pages * kPage,
                                              .userspace_addr = slot.userspace_address};
        return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) == 0;
    }

    // Lets vCPU 0 write to one page, and waits for it.
    void write_page(uint32_t page)
    {
        std::vector<uint8_t> code = {0xff, 0x05}; // inc dword [address]
        append(code, page * static_cast<uint32_t>(kPage) + 8);
        code.push_back(0xf4); // hlt
        load(0, code);
        ASSERT_EQ(ioctl(vcpus[0], KVM_RUN, 0), 0) << strerror(errno);
        ASSERT_EQ(runs_[0]->exit_reason, static_cast<uint32_t>(KVM_EXIT_HLT));
    }

    // Starts all vCPUs: each increments every page from kFirst to the end, over and over. After every 32
    // pages it leaves KVM_RUN: where KVM emulates this code it looks only then whether a dirty ring is full.
    void run(const std::function<int()> &ring_full = nullptr)
    {
        for (unsigned i = 0; i < vcpus.size(); i++) {
            std::vector<uint8_t> code = {0xbf}; // mov edi, kFirst
            append(code, kFirst + i * 4);
            code.insert(code.end(), {0xff, 0x07, 0x81, 0xc7}); // L: inc dword [edi]; add edi, 4096
            append(code, kPage);
            code.insert(code.end(), {0xf7, 0xc7}); // test edi, 31 * 4096
            append(code, 31 * kPage);
            code.insert(code.end(),
                        {0x75, 0x02, 0xe6, 0x10, 0x81, 0xff}); // jnz S; out 0x10, al; S: cmp edi, end
            append(code, static_cast<uint32_t>(memory.bytes()));
            code.insert(code.end(), {0x72, 0xe6, 0xeb, 0xdf}); // jb L; jmp start
            load(i, code);
            threads_.emplace_back([this, i, ring_full] { run_vcpu(i, ring_full); });
        }
    }

    // Stops all vCPUs; they have left KVM_RUN on return.
    void end()
    {
        stop_ = true;
        for (size_t i = 0; i < threads_.size(); i++) {
            __atomic_store_n(&runs_[i]->immediate_exit, 1, __ATOMIC_RELAXED);
            pthread_kill(threads_[i].native_handle(), SIGUSR1);
        }
        for (std::thread &thread : threads_) {
            thread.join();
        }
        threads_.clear();
    }

    SharedMemory memory;
    std::string why; // why it cannot be used; empty: it can
    int vm = -1;
    std::vector<int> vcpus;
    std::vector<haul_kvm_slot> slots;
    std::atomic<int> failures{0};
    std::atomic<int> ring_fulls{0};

  private:
    static void append(std::vector<uint8_t> &code, uint32_t word)
    {
        for (int shift = 0; shift < 32; shift += 8) {
            code.push_back(static_cast<uint8_t>(word >> shift));
        }
    }

    bool enable_ring(uint32_t ring_bytes)
    {
        for (uint32_t capability : {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING}) {
            kvm_enable_cap enable = {};
            enable.cap = capability;
            enable.args[0] = ring_bytes;
            if (ioctl(vm, KVM_ENABLE_CAP, &enable) == 0) {
                return true;
            }
        }
        return false;
    }

    void add_vcpu(unsigned index)
    {
        int vcpu = ioctl(vm, KVM_CREATE_VCPU, index);
        run_bytes_ = static_cast<size_t>(ioctl(kvm_, KVM_GET_VCPU_MMAP_SIZE, 0));
        void *run = mmap(nullptr, run_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
        kvm_sregs sregs;
        if (vcpu < 0 || run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs)) {
            why = std::string("cannot make a vCPU: ") + strerror(errno);
            return;
        }
        kvm_segment flat = {};
        flat.limit = 0xffffffff, flat.selector = 8, flat.type = 11, flat.present = 1, flat.db = 1, flat.s = 1;
        flat.g = 1;
        sregs.cs = flat;
        flat.type = 3, flat.selector = 16;
        sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat;
        sregs.cr0 |= 1; // protected mode, no paging
        ioctl(vcpu, KVM_SET_SREGS, &sregs);
        vcpus.push_back(vcpu);
        runs_.push_back(static_cast<kvm_run *>(run));
    }

    void load(unsigned index, const std::vector<uint8_t> &code)
    {
        memcpy(memory.data() + kCode + index * kPage, code.data(), code.size());
        kvm_regs regs = {};
        regs.rip = kCode + index * kPage;
        regs.rflags = 2;
        ASSERT_EQ(ioctl(vcpus[index], KVM_SET_REGS, &regs), 0);
    }

    void run_vcpu(unsigned index, const std::function<int()> &ring_full)
    {
        struct sigaction action = {};
        action.sa_handler = [](int) {};
        sigaction(SIGUSR1, &action, nullptr);
        while (!stop_) {
            int result = ioctl(vcpus[index], KVM_RUN, 0);
            if (result < 0 && (errno == EINTR || errno == EAGAIN)) {
                continue;
            }
            if (result == 0 && runs_[index]->exit_reason == KVM_EXIT_IO) {
                continue;
            }
            if (result == 0 && runs_[index]->exit_reason == KVM_EXIT_DIRTY_RING_FULL && ring_full) {
                ring_fulls++;
                failures += ring_full() != 0;
                continue;
            }
            failures++;
            return;
        }
    }

    int kvm_ = -1;
    size_t run_bytes_ = 0;
    std::vector<kvm_run *> runs_;
    std::vector<std::thread> threads_;
    std::atomic<bool> stop_{false};
};

#endif
