// What a worker gives up before it runs a stranger's SQL.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstdio>
#include <vector>

#include "qlora/eval/score/sql_worker.h"

namespace qlora {
namespace {

void cap(int resource, rlim_t value) {
  const rlimit limit{value, value};
  ::setrlimit(static_cast<__rlimit_resource_t>(resource), &limit);
}

size_t address_space_now() {
  size_t pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%zu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return pages * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

void close_descriptors(int kept) {
  const int nothing = ::open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) ::dup2(nothing, fd);
  const auto close_all = [](unsigned first, unsigned last) {
    if (first > last || ::syscall(__NR_close_range, first, last, 0u) == 0) return;
    const unsigned end = std::min(last, 65535u);  // before Linux 5.9
    for (unsigned fd = first; fd <= end; ++fd) ::close(static_cast<int>(fd));
  };
  close_all(3, static_cast<unsigned>(kept) - 1);
  close_all(static_cast<unsigned>(kept) + 1, ~0u);
}

#if defined(__x86_64__)
constexpr unsigned kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr unsigned kArchitecture = AUDIT_ARCH_AARCH64;
#else
constexpr unsigned kArchitecture = 0;
#endif

std::vector<unsigned> forbidden_calls() {
  return {
    __NR_socket, __NR_socketpair, __NR_connect, __NR_bind, __NR_listen, __NR_accept, __NR_accept4, __NR_execve,
        __NR_execveat, __NR_clone, __NR_clone3, __NR_ptrace, __NR_unlinkat, __NR_renameat, __NR_renameat2, __NR_mkdirat,
        __NR_linkat, __NR_symlinkat, __NR_mknodat, __NR_fchmod, __NR_fchmodat, __NR_fchown, __NR_fchownat,
        __NR_truncate, __NR_ftruncate, __NR_mount, __NR_umount2, __NR_chroot, __NR_kill, __NR_tkill,
        __NR_process_vm_readv, __NR_process_vm_writev, __NR_bpf, __NR_io_uring_setup,
#if defined(__x86_64__)
        __NR_fork, __NR_vfork, __NR_unlink, __NR_rename, __NR_mkdir, __NR_rmdir, __NR_link, __NR_symlink, __NR_mknod,
        __NR_chmod, __NR_chown, __NR_creat,
#endif
  };
}

sock_filter statement(unsigned code, unsigned k) {
  return {static_cast<unsigned short>(code), 0, 0, k};
}
sock_filter jump(unsigned code, unsigned k, unsigned char yes, unsigned char no) {
  return {static_cast<unsigned short>(code), yes, no, k};
}

// Forbidden calls and opening for writing fail with EPERM; the rest passes. Without seccomp the other fences stand.
void filter_system_calls() {
  if (kArchitecture == 0) return;
  const unsigned deny = SECCOMP_RET_ERRNO | 1;  // EPERM
  const auto load = [](size_t offset) { return statement(BPF_LD | BPF_W | BPF_ABS, static_cast<unsigned>(offset)); };
  std::vector<sock_filter> program = {
      load(offsetof(seccomp_data, arch)), jump(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0),
      statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS), load(offsetof(seccomp_data, nr))};
  for (const unsigned call : forbidden_calls()) {
    program.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1));
    program.push_back(statement(BPF_RET | BPF_K, deny));
  }
  const auto forbid_writing = [&](unsigned call, size_t flags_argument) {
    program.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 4));
    program.push_back(load(offsetof(seccomp_data, args) + 8 * flags_argument));
    program.push_back(jump(BPF_JMP | BPF_JSET | BPF_K, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC, 0, 1));
    program.push_back(statement(BPF_RET | BPF_K, deny));
    program.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  };
  forbid_writing(__NR_openat, 2);
#if defined(__x86_64__)
  forbid_writing(__NR_open, 1);
#endif
  program.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter);
}

}  // namespace

void confine_process(int kept_descriptor, const SandboxLimits& limits) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  std::signal(SIGINT, SIG_IGN);  // the parent decides what an interrupt means
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGXFSZ, SIG_IGN);  // a write fails with EFBIG instead
  close_descriptors(kept_descriptor);
  cap(RLIMIT_AS, address_space_now() + limits.memory_bytes);
  cap(RLIMIT_FSIZE, 0);
  cap(RLIMIT_CORE, 0);
  filter_system_calls();
}

}  // namespace qlora
