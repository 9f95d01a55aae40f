// Takes from this process, and from what it starts, what containers and administrators take: for
// children of tests. Each returns whether it could.
#pragma once

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>

namespace thimble::testing {

/// io_uring is refused with EPERM, as by the filters of containers.
inline bool forbid_io_uring() {
  sock_filter program[] = {
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_io_uring_setup},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  };
  const sock_fprog filter{4, program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

/// `ulimit -l`, for a user who may not lock more.
inline bool limit_locked_memory(rlim_t bytes) {
  const rlimit limit{bytes, bytes};
  // Programs that root starts may otherwise lock as much as they like; others cannot anyway.
  const bool dropped = ::prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) == 0 || errno == EPERM;
  return dropped && ::setrlimit(RLIMIT_MEMLOCK, &limit) == 0;
}

}  // namespace thimble::testing
