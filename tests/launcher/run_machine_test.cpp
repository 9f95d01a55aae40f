#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <vector>

#include "core/base/numeric.h"
#include "launcher/run/cgroup.h"
#include "launcher/run/machine.h"
#include "tests/launcher/run_temp_dir.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

/// A copy of the kernel's files that a test fills.
class FakeRoots {
 public:
  FakeRoots() {
    write("proc/meminfo",
          "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    8000000 kB\n");
  }

  void write(const fs::path& name, const std::string& text) {
    const fs::path path = directory_.path() / name;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }

  SystemRoots roots() const { return {directory_.path() / "proc", directory_.path() / "cgroup"}; }

 private:
  TempDir directory_{"machine"};
};

TEST(RunMachine, NoCgroupMeansNoLimit) {
  const FakeRoots fake;
  const MemoryLimit memory = memory_limit(fake.roots());
  EXPECT_EQ(memory.total_bytes, 16000000 * kKiB);
  EXPECT_EQ(memory.usable_bytes, 8000000 * kKiB);
  EXPECT_FALSE(memory.cgroup_limit_bytes.has_value());
  EXPECT_EQ(memory.bound_by, "free memory");
  EXPECT_EQ(memory.default_budget_bytes(), 8000000 * kKiB / 10 * 9);
  EXPECT_FALSE(cpu_limit(fake.roots()).quota.has_value());
}

TEST(RunMachine, Version2TakesTheTightestAncestorAndIgnoresReclaimableCache) {
  FakeRoots fake;
  fake.write("proc/self/cgroup", "0::/slice/job\n");
  fake.write("cgroup/slice/job/memory.max", "max\n");
  fake.write("cgroup/slice/job/cpu.max", "max 100000\n");
  fake.write("cgroup/slice/memory.max", "2000000000\n");
  fake.write("cgroup/slice/memory.current", "900000000\n");
  fake.write("cgroup/slice/memory.stat", "anon 5\ninactive_file 400000000\n");
  fake.write("cgroup/slice/cpu.max", "50000 100000\n");
  const MemoryLimit memory = memory_limit(fake.roots());
  EXPECT_EQ(memory.cgroup_limit_bytes, 2000000000);
  EXPECT_EQ(memory.cgroup_free_bytes, 1500000000);
  EXPECT_EQ(memory.usable_bytes, 1500000000);
  EXPECT_EQ(memory.bound_by, "cgroup limit");
  const CpuLimit cores = cpu_limit(fake.roots());
  EXPECT_DOUBLE_EQ(cores.quota.value_or(0), 0.5);
  EXPECT_EQ(cores.usable, 1);
  EXPECT_EQ(cores.bound_by, "cgroup quota");
}

TEST(RunMachine, Version1AndAPathThatTheContainerCannotSee) {
  FakeRoots fake;
  fake.write("proc/self/cgroup",
             "4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n0::/docker/abc\n");
  fake.write("cgroup/memory/memory.limit_in_bytes", "1000000000\n");
  fake.write("cgroup/memory/memory.usage_in_bytes", "1200000000\n");
  fake.write("cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  fake.write("cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  const MemoryLimit memory = memory_limit(fake.roots());
  EXPECT_EQ(memory.cgroup_limit_bytes, 1000000000);
  EXPECT_EQ(memory.usable_bytes, 0);
  EXPECT_EQ(memory.default_budget_bytes(), 0);
  EXPECT_FALSE(cpu_limit(fake.roots()).quota.has_value());
}

TEST(RunMachine, Version1UnlimitedAndHostileFilesGiveNoLimit) {
  FakeRoots fake;
  fake.write("proc/self/cgroup", "4:memory:/../../etc\nnonsense\n\n2:cpu:\n");
  fake.write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  fake.write("cgroup/cpu/cpu.cfs_quota_us", "two\n");
  EXPECT_FALSE(memory_limit(fake.roots()).cgroup_limit_bytes.has_value());
  EXPECT_FALSE(cpu_limit(fake.roots()).quota.has_value());
}

TEST(RunMachine, UnreadableMeminfoIsASystemError) {
  FakeRoots fake;
  fake.write("proc/meminfo", "MemTotal: lots\n");
  EXPECT_THROW(memory_limit(fake.roots()), SystemError);
}

TEST(RunMachine, FindNumber) {
  const std::string text = "anon_thp 7\nanon 5\nVmRSS:\t  12 kB\nempty\n";
  EXPECT_EQ(find_number(text, "anon"), 5);
  EXPECT_EQ(find_number(text, "VmRSS:"), 12);
  EXPECT_FALSE(find_number(text, "empty").has_value());
  EXPECT_FALSE(find_number("", "anon").has_value());
}

TEST(RunMachine, ThisMachineIsPlausible) {
  const Machine machine = probe_machine();
  EXPECT_FALSE(machine.kernel.empty());
  EXPECT_FALSE(machine.cpu.brand.empty());
  EXPECT_TRUE(machine.cpu.avx2) << "Thimble is compiled for AVX2";
  EXPECT_EQ(machine.cpu.isa().substr(0, 4), "avx2");
  EXPECT_GE(machine.cores.usable, 1);
  EXPECT_LE(machine.cores.usable, machine.cores.online);
  EXPECT_GT(machine.memory.usable_bytes, 0);
  EXPECT_LE(machine.memory.usable_bytes, machine.memory.total_bytes);
  EXPECT_GT(disk_free_bytes(fs::temp_directory_path()), 0);
  EXPECT_THROW(disk_free_bytes("/no/such/place"), SystemError);
}

TEST(RunMachine, ResidentPeakFollowsUseAndReset) {
  const ResidentMemory before = resident_memory();
  EXPECT_GT(before.now_bytes, 0);
  EXPECT_GE(before.peak_bytes, before.now_bytes);
  constexpr std::int64_t kBlock = 64 * kMiB;
  {
    std::vector<char> block(kBlock);
    std::memset(block.data(), 1, block.size());
    EXPECT_NE(block[block.size() / 2], 0);
    EXPECT_GE(resident_memory().now_bytes, before.now_bytes + kBlock / 2);
  }
  EXPECT_GE(resident_memory().peak_bytes, before.now_bytes + kBlock / 2);
  if (reset_resident_peak()) {
    // The allocator may have kept the block, so the new peak is compared with what is resident, not
    // with the old one.
    const ResidentMemory after = resident_memory();
    EXPECT_LE(after.peak_bytes, after.now_bytes + kBlock / 4);
  }
}

}  // namespace
}  // namespace thimble
