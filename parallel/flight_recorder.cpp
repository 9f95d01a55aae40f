#include "parallel/flight_recorder.h"

#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <thread>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/io/file.h"

namespace thimble {
namespace {

constexpr std::array<char, 8> kMagic{'t', 'h', 'f', 'l', 'i', 'g', 'h', '3'};
constexpr std::int64_t kOps = 1024;  // of a channel
constexpr std::size_t kChannels = 2;

// The file, as it lies in memory of this machine; nothing else reads it.
struct OpSlot {
  std::int64_t number, bytes, start_ns, end_ns;
  std::array<char, 24> operation;
  std::array<char, 72> subject;
};
struct Layout {
  std::array<char, 8> magic;
  std::int32_t rank, ranks;
  std::int64_t pid;
  std::array<char, 64> host;
  std::int64_t heartbeat_ns, step;
  std::array<char, 32> phase;
  std::array<std::array<OpSlot, kOps>, kChannels> ops;
};
static_assert(std::is_trivially_copyable_v<Layout>);

// Whole, even for a reader that looks at the same moment.
void put(std::int64_t& field, std::int64_t value) {
  std::atomic_ref<std::int64_t>(field).store(value, std::memory_order_relaxed);
}

template <std::size_t N>
void put(std::array<char, N>& field, std::string_view text) {
  const std::size_t n = std::min(text.size(), N - 1);
  std::memcpy(field.data(), text.data(), n);
  std::memset(field.data() + n, 0, N - n);
}

template <std::size_t N>
std::string get(const std::array<char, N>& field) {
  return printable(std::string_view(field.data(), ::strnlen(field.data(), N)));
}

std::int64_t boottime_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

struct FlightRecorder::Impl {
  Layout* layout = nullptr;
  bool flushes = false;
  std::mutex mutex;
  std::condition_variable changed;
  bool closing = false;
  std::thread heart;

  void beat() {
    std::unique_lock lock(mutex);
    while (!closing) {
      put(layout->heartbeat_ns, boottime_ns());
      if (flushes) ::msync(layout, sizeof(Layout), MS_SYNC);
      changed.wait_for(lock, std::chrono::seconds(1), [this] { return closing; });
    }
  }
};

FlightRecorder::FlightRecorder(const std::filesystem::path& path, const Owner& owner)
    : impl_(std::make_unique<Impl>()) {
  const File file = File::create(path);
  if (::ftruncate(file.descriptor(), sizeof(Layout)) != 0) throw_errno("ftruncate", path.string());
  file.reserve(sizeof(Layout));  // on a full disk the first write to a page would end the process
  void* memory =
      ::mmap(nullptr, sizeof(Layout), PROT_READ | PROT_WRITE, MAP_SHARED, file.descriptor(), 0);
  if (memory == MAP_FAILED) throw_errno("mmap", path.string());
  impl_->layout = static_cast<Layout*>(memory);  // all zero, which is a valid state of every field
  impl_->layout->rank = owner.rank;
  impl_->layout->ranks = owner.ranks;
  put(impl_->layout->host, owner.host);
  impl_->flushes = owner.read_elsewhere;
  impl_->layout->pid = ::getpid();
  put(impl_->layout->phase, "start");
  put(impl_->layout->heartbeat_ns, boottime_ns());
  impl_->layout->magic = kMagic;
  impl_->heart = std::thread([this] { impl_->beat(); });
}

FlightRecorder::~FlightRecorder() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->closing = true;
    impl_->changed.notify_all();
  }
  impl_->heart.join();
  ::munmap(impl_->layout, sizeof(Layout));
}

void FlightRecorder::set_phase(const char* phase) {
  put(impl_->layout->phase, phase);
}

void FlightRecorder::set_step(std::int64_t step) {
  put(impl_->layout->step, step);
}

void FlightRecorder::op_event(const OpEvent& event) {
  auto& ops = impl_->layout->ops.at(static_cast<std::size_t>(event.channel));
  OpSlot& slot = ops[static_cast<std::size_t>(event.number % kOps)];
  if (event.ended) {
    if (slot.number == event.number) slot.end_ns = boottime_ns();
    return;
  }
  slot.end_ns = 0;
  slot.number = event.number;
  slot.bytes = event.bytes;
  slot.start_ns = boottime_ns();
  put(slot.operation, event.label.operation);
  put(slot.subject, event.label.subject);
}

std::filesystem::path flight_file(const std::filesystem::path& logs, int rank) {
  return logs / fmt::format("flight-{}.bin", rank);
}

FlightRecord read_flight_record(const std::filesystem::path& path) {
  const std::string bytes = read_text_file(path, sizeof(Layout) + 1);
  if (bytes.size() != sizeof(Layout) ||
      std::memcmp(bytes.data(), kMagic.data(), kMagic.size()) != 0) {
    throw_user("{}: not a flight record of this version", path.string());
  }
  const auto copy = std::make_unique<Layout>();
  std::memcpy(copy.get(), bytes.data(), sizeof(Layout));
  FlightRecord record{.rank = copy->rank,
                      .ranks = copy->ranks,
                      .host = get(copy->host),
                      .pid = copy->pid,
                      .heartbeat_ns = copy->heartbeat_ns,
                      .step = copy->step,
                      .phase = get(copy->phase),
                      .ops = {}};
  for (std::size_t channel = 0; channel < kChannels; ++channel) {
    for (const OpSlot& slot : copy->ops[channel]) {
      if (slot.start_ns == 0) continue;
      record.ops.push_back({.channel = static_cast<OpChannel>(channel),
                            .number = slot.number,
                            .operation = get(slot.operation),
                            .subject = get(slot.subject),
                            .bytes = slot.bytes,
                            .start_ns = slot.start_ns,
                            .end_ns = slot.end_ns});
    }
  }
  std::sort(record.ops.begin(), record.ops.end(), [](const FlightOp& a, const FlightOp& b) {
    return std::pair(a.channel, a.number) < std::pair(b.channel, b.number);
  });
  return record;
}

std::vector<FlightRecord> read_flight_records(const std::filesystem::path& directory) {
  std::vector<FlightRecord> all;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (!entry.path().filename().string().starts_with("flight-")) continue;
    try {
      all.push_back(read_flight_record(entry.path()));
    } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch) being made just now, or torn
    }
  }
  std::sort(all.begin(), all.end(),
            [](const FlightRecord& a, const FlightRecord& b) { return a.rank < b.rank; });
  return all;
}

std::string FlightRecord::text() const {
  const auto open =
      std::find_if(ops.begin(), ops.end(), [](const FlightOp& op) { return op.end_ns == 0; });
  std::string out = fmt::format("step {}, {}", step, phase);
  if (open != ops.end())
    out += fmt::format(", in {} #{} of {}", open->operation, open->number, open->subject);
  return out;
}

namespace {

// The first operation that a rank entered and has not left, and that another rank never entered.
std::string first_divergence(const std::vector<FlightRecord>& records, OpChannel channel) {
  const FlightOp* first = nullptr;
  for (const FlightRecord& r : records) {
    for (const FlightOp& op : r.ops) {
      if (op.channel == channel && op.end_ns == 0 &&
          (first == nullptr || op.number < first->number))
        first = &op;
    }
  }
  if (first == nullptr) return "";
  std::string absent, waiting;
  for (const FlightRecord& r : records) {
    const bool entered = std::any_of(r.ops.begin(), r.ops.end(), [&](const FlightOp& op) {
      return op.channel == channel && op.number >= first->number;
    });
    std::string& list = entered ? waiting : absent;
    list += fmt::format("{}{}", list.empty() ? "" : ", ", r.rank);
  }
  if (absent.empty()) return "";
  return fmt::format("rank {} never entered {} #{} of {}; rank {} waits in it", absent,
                     first->operation, first->number, first->subject, waiting);
}

}  // namespace

std::string first_divergence(const std::vector<FlightRecord>& records) {
  for (const OpChannel channel : {OpChannel::kProcesses, OpChannel::kGpus}) {
    const std::string found = first_divergence(records, channel);
    if (!found.empty()) return found;
  }
  std::string out;
  for (const FlightRecord& r : records)
    out += fmt::format("{}rank {}: {}", out.empty() ? "" : "; ", r.rank, r.text());
  return out;
}

}  // namespace thimble
