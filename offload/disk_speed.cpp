#include "offload/disk_speed.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>

#include "core/base/error.h"
#include "core/base/random.h"
#include "core/io/file.h"
#include "core/io/staged.h"
#include "core/io/transfer_memory.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Full of bytes that no file system can compress.
class RandomMemory {
 public:
  explicit RandomMemory(std::int64_t bytes) : memory_(bytes) {
    const std::span<std::byte> all = memory_.all();
    for (std::size_t at = 0; at < all.size(); at += sizeof(std::uint64_t)) {
      const std::uint64_t word = mix64(1, at);
      std::memcpy(all.data() + at, &word, sizeof(word));
    }
  }
  std::span<std::byte> all() const { return memory_.all(); }

 private:
  TransferMemory memory_;
};

/// A file that has no name once it is open, so that it goes with its last descriptor.
File open_unnamed(const fs::path& directory, std::int64_t bytes) {
  const File named = create_beside(directory / ".thimble-disk");
  struct Remove {
    const fs::path& path;
    ~Remove() { remove_tree(path); }
  };
  File file = [&] {
    const Remove remove{named.path()};
    return File::open_direct(named.path());
  }();
  file.reserve(bytes);
  return file;
}

enum class Direction : std::uint8_t { kRead, kWrite, kMixed };

struct Load {
  Direction direction = Direction::kRead;
  int queue_depth = 1;
  std::int64_t request_bytes = 0;
};

/// The two files, and what it takes to keep requests under way on them.
class DiskMeter {
 public:
  DiskMeter(const DiskSpeedOptions& options, int max_depth, std::int64_t max_request)
      : memory_(max_depth * max_request),
        engine_(make_file_engine(
            {.kind = options.engine, .queue_depth = max_depth, .registered = memory_.all()})),
        file_bytes_(options.size_bytes / 2 / max_request * max_request),
        read_(open_unnamed(options.directory, file_bytes_)),
        written_(open_unnamed(options.directory, file_bytes_)) {}

  /// Writes both files, so that what is measured later goes over blocks that the file system has
  /// given out and that hold data. Stops at `deadline` with files that are smaller.
  void fill(double deadline, int queue_depth, std::int64_t request_bytes) {
    std::vector<Completion> under_way(static_cast<std::size_t>(queue_depth));
    std::int64_t filled = 0;
    for (std::size_t slot = 0; filled < file_bytes_; filled += request_bytes) {
      if (filled > 0 && now_seconds() > deadline) break;
      for (const File* file : {&read_, &written_}) {
        under_way[slot].wait();
        under_way[slot] = engine_->start_write(*file, filled, memory_of(slot, request_bytes));
        slot = (slot + 1) % under_way.size();
      }
    }
    wait_all(under_way);
    file_bytes_ = filled;
    read_.data_sync();
    written_.data_sync();
  }

  /// Bytes per second of a load that new requests are started of for `seconds`.
  double rate(const Load& load, double seconds) {
    next_read_ = 0;
    std::vector<Completion> under_way(static_cast<std::size_t>(load.queue_depth));
    const double begin = now_seconds();
    std::int64_t requests = 0;
    for (; requests < 2 || now_seconds() - begin < seconds; ++requests) {
      const std::size_t slot = static_cast<std::size_t>(requests) % under_way.size();
      under_way[slot].wait();
      const bool reading = load.direction == Direction::kRead ||
                           (load.direction == Direction::kMixed && requests % 2 == 0);
      under_way[slot] = start(reading, memory_of(slot, load.request_bytes));
    }
    wait_all(under_way);
    if (!direct() && load.direction != Direction::kRead) written_.data_sync();
    return static_cast<double>(requests * load.request_bytes) / (now_seconds() - begin);
  }

  const FileEngine& engine() const { return *engine_; }
  bool direct() const { return read_.direct_alignment() > 0; }
  std::int64_t size_bytes() const { return 2 * file_bytes_; }

 private:
  std::span<std::byte> memory_of(std::size_t slot, std::int64_t request_bytes) const {
    const auto bytes = static_cast<std::size_t>(request_bytes);
    return memory_.all().subspan(slot * bytes, bytes);
  }

  Completion start(bool reading, std::span<std::byte> memory) {
    std::int64_t& next = reading ? next_read_ : next_write_;
    const auto bytes = narrow<std::int64_t>(memory.size());
    if (next + bytes > file_bytes_) next = 0;
    // Where there is a page cache in between, its memory is not to be measured.
    if (reading && next == 0 && !direct()) read_.drop_cache(0, file_bytes_);
    const std::int64_t offset = next;
    next += bytes;
    return reading ? engine_->start_read(read_, offset, memory)
                   : engine_->start_write(written_, offset, memory);
  }

  RandomMemory memory_;
  std::unique_ptr<FileEngine> engine_;
  std::int64_t file_bytes_;
  File read_, written_;
  std::int64_t next_read_ = 0, next_write_ = 0;
};

void check_options(const DiskSpeedOptions& o, std::int64_t max_request, std::int64_t free_bytes) {
  TH_CHECK(!o.queue_depths.empty() && std::ranges::min(o.queue_depths) >= 1);
  TH_CHECK(std::ranges::min(o.request_bytes) >= 64 * kKiB &&
           max_request <= FileEngine::kPieceBytes);
  if (!(o.seconds > 0)) throw_user("seconds {}: measuring a disk takes more than 0", o.seconds);
  if (o.size_bytes < 2 * max_request) {
    throw_user("size {}: measuring the disk of {} takes at least {}, two requests",
               format_bytes(o.size_bytes), o.directory.string(), format_bytes(2 * max_request));
  }
  if (o.size_bytes > free_bytes / 2) {
    throw_user("size {}: measuring the disk of {} may take half of the {} that are free there, {}",
               format_bytes(o.size_bytes), o.directory.string(), format_bytes(free_bytes),
               format_bytes(free_bytes / 2));
  }
}

}  // namespace

DiskSpeed measure_disk_speed(const DiskSpeedOptions& options) {
  const double begin = now_seconds();
  DiskSpeed speed{.file_system = file_system_of(options.directory)};
  TH_CHECK(!options.request_bytes.empty());
  const std::int64_t max_request = std::ranges::max(options.request_bytes);
  check_options(options, max_request, speed.file_system.free_bytes);
  const int max_depth = std::ranges::max(options.queue_depths);
  DiskMeter meter(options, max_depth, max_request);
  meter.fill(begin + options.seconds / 4, max_depth, max_request);
  speed.direct = meter.direct();
  speed.engine = meter.engine().name();
  speed.why_unregistered = meter.engine().why_unregistered();
  speed.size_bytes = meter.size_bytes();

  auto left = static_cast<double>(3 * options.request_bytes.size() * options.queue_depths.size());
  const auto measure = [&](Direction direction, const DiskRates& at) {
    const double time_left = begin + options.seconds - now_seconds();
    return meter.rate({direction, at.queue_depth, at.request_bytes}, time_left / left--);
  };
  for (const std::int64_t request : options.request_bytes) {
    for (const int depth : options.queue_depths) {
      if (!speed.rates.empty() && now_seconds() > begin + options.seconds) continue;
      DiskRates rates{.queue_depth = depth, .request_bytes = request};
      rates.read = measure(Direction::kRead, rates);
      rates.write = measure(Direction::kWrite, rates);
      rates.mixed = measure(Direction::kMixed, rates);
      speed.rates.push_back(rates);
    }
  }
  speed.best = *std::ranges::max_element(speed.rates, {}, &DiskRates::mixed);
  return speed;
}

}  // namespace thimble
