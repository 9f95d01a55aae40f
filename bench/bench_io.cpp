// The file engines: reads and writes of a 256 MiB file through a window of buffers, in the page
// cache and out of it.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "core/io/file_engine.h"

namespace thimble {
namespace {

constexpr std::int64_t kFileBytes = std::int64_t{256} << 20;

// A file in the temporary directory that goes with the benchmark.
class ScratchFile {
 public:
  ScratchFile()
      : path_(std::filesystem::temp_directory_path() /
              ("thimble-bench-" + std::to_string(::getpid()))) {}
  ~ScratchFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

void forget_cache(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  ::fdatasync(fd);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

// Arguments: bytes of a transfer, transfers under way.
template <bool kRead>
void transfer(benchmark::State& state, FileEngineKind kind, bool cold) {
  const std::int64_t bytes = state.range(0), depth = state.range(1);
  const auto engine = make_file_engine({.kind = kind, .queue_depth = static_cast<int>(depth)});
  const ScratchFile scratch;
  const File file = File::create(scratch.path());
  std::vector<std::vector<std::byte>> buffers(
      static_cast<std::size_t>(depth),
      std::vector<std::byte>(static_cast<std::size_t>(bytes), std::byte{1}));
  const std::vector<std::byte> block(static_cast<std::size_t>(FileEngine::kPieceBytes),
                                     std::byte{7});
  for (std::int64_t at = 0; at < kFileBytes; at += FileEngine::kPieceBytes)
    engine->write(file, at, block);
  for (auto _ : state) {
    if (cold) {
      state.PauseTiming();
      forget_cache(scratch.path());
      state.ResumeTiming();
    }
    std::vector<Completion> transfers(buffers.size());
    for (std::int64_t i = 0; i < kFileBytes / bytes; ++i) {
      const auto slot = static_cast<std::size_t>(i % depth);
      transfers[slot].wait();
      transfers[slot] = kRead ? engine->start_read(file, i * bytes, buffers[slot])
                              : engine->start_write(file, i * bytes, buffers[slot]);
    }
    wait_all(transfers);
    if (!kRead && cold) file.data_sync();
  }
  state.SetBytesProcessed(state.iterations() * kFileBytes);
}

void register_all() {
  const auto add = [](const std::string& name, auto run) {
    benchmark::RegisterBenchmark(name.c_str(), run)
        ->Args({std::int64_t{4} << 20, 8})
        ->Args({std::int64_t{128} << 10, 32})
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime();
  };
  for (const FileEngineKind kind : {FileEngineKind::kUring, FileEngineKind::kThreads}) {
    const std::string engine = kind == FileEngineKind::kUring ? "/io_uring" : "/threads";
    add("read_cached" + engine, [=](benchmark::State& s) { transfer<true>(s, kind, false); });
    add("read_disk" + engine, [=](benchmark::State& s) { transfer<true>(s, kind, true); });
    add("write_cached" + engine, [=](benchmark::State& s) { transfer<false>(s, kind, false); });
    add("write_synced" + engine, [=](benchmark::State& s) { transfer<false>(s, kind, true); });
  }
}

const bool kRegistered = (register_all(), true);

}  // namespace
}  // namespace thimble
