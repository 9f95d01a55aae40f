#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <mutex>
#include <utility>

#include "core/base/error.h"
#include "core/io/file.h"

namespace thimble {

// What the handler of SIGBUS knows of a mapping. It may run at any moment, so everything it reads
// is atomic, and an entry is filled before its address range is and emptied after.
struct internal::MappedRange {
  std::atomic<std::uintptr_t> begin = 0, end = 0;  // 0: free
  std::atomic<bool> notes_losses = false;
  std::atomic<bool> lost = false;
  std::array<char, 256> name{};  // for the handler's message, cut if it is longer
};

namespace {

using internal::MappedRange;

// Enough for the files of data and weights of a job; a mapping beyond them is not watched.
constexpr std::size_t kRanges = 1024;

// A signal handler can reach nothing but globals.
std::array<MappedRange, kRanges> ranges;
std::mutex ranges_mutex;  // of those who fill and empty them
std::uintptr_t page_bytes = 0;

MappedRange* range_around(std::uintptr_t address) {
  for (MappedRange& range : ranges) {
    const std::uintptr_t begin = range.begin.load();
    if (begin != 0 && address >= begin && address < range.end.load()) return &range;
  }
  return nullptr;
}

void say(std::string_view text) {
  // Nobody is left to tell if standard error itself fails.
  static_cast<void>(!::write(STDERR_FILENO, text.data(), text.size()));
}

// Lets the signal end the process as without a handler, once this one has returned.
void die_of(int number) {
  ::signal(number, SIG_DFL);
  ::raise(number);
}

// Makes only calls that a signal handler may make.
extern "C" void on_bus_error(int number, siginfo_t* info, void* /*context*/) {
  const int error = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  MappedRange* range = info->si_code == BUS_ADRERR ? range_around(address) : nullptr;
  if (range == nullptr) return die_of(number);  // not ours
  if (!range->notes_losses.load()) {
    say("error: ");
    say({range->name.data(), ::strnlen(range->name.data(), range->name.size())});
    say(": the file was cut, or its disk failed, while it was being read\n");
    ::_exit(1);
  }
  range->lost.store(true);
  void* const page = reinterpret_cast<void*>(address / page_bytes * page_bytes);
  if (::mmap(page, page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
      MAP_FAILED) {
    errno = error;
    return;
  }
  die_of(number);
}

void install_handler() {
  page_bytes = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  if (::sigaction(SIGBUS, &action, nullptr) != 0) throw_errno("sigaction", "SIGBUS");
}

MappedRange* take_range(const std::filesystem::path& path, std::span<const std::byte> bytes,
                        bool notes_losses) {
  static std::once_flag once;
  std::call_once(once, install_handler);
  const std::lock_guard lock(ranges_mutex);
  const auto free = std::find_if(ranges.begin(), ranges.end(),
                                 [](const MappedRange& r) { return r.begin.load() == 0; });
  if (free == ranges.end()) return nullptr;
  free->name.fill(0);
  const std::string& text = path.native();
  std::copy_n(text.begin(), std::min(text.size(), free->name.size()), free->name.begin());
  free->notes_losses = notes_losses;
  free->lost = false;
  free->end = reinterpret_cast<std::uintptr_t>(bytes.data()) + bytes.size();
  free->begin = reinterpret_cast<std::uintptr_t>(bytes.data());
  return &*free;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path, OnLoss on_loss) : path_(path) {
  const File file = File::open_read(path);
  if (on_loss == OnLoss::kNote) {
    descriptor_ = FileDescriptor(::fcntl(file.descriptor(), F_DUPFD_CLOEXEC, 0));
    if (!descriptor_) throw_errno("fcntl", path.string());
  }
  const auto size = static_cast<std::size_t>(file.size());
  if (size == 0) return;
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (address == MAP_FAILED) throw_errno("mmap", path.string());
  bytes_ = {static_cast<const std::byte*>(address), size};
  range_ = take_range(path, bytes_, on_loss == OnLoss::kNote);
}

MappedFile::~MappedFile() {
  if (bytes_.empty()) return;
  if (range_ != nullptr) range_->begin = 0;
  ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})),
      descriptor_(std::move(other.descriptor_)),
      path_(std::move(other.path_)),
      range_(std::exchange(other.range_, nullptr)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  std::swap(range_, other.range_);
  return *this;
}

std::string_view MappedFile::text() const {
  return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
}

bool MappedFile::lost() const noexcept {
  return range_ != nullptr && range_->lost.load();
}

MappedFile::Stamp MappedFile::stamp() const {
  TH_CHECK(static_cast<bool>(descriptor_), "a mapping that does not ask for losses");
  struct stat status {};
  if (::fstat(descriptor_.get(), &status) != 0) throw_errno("fstat", path_.string());
  return {status.st_size, status.st_mtim.tv_sec * 1'000'000'000 + status.st_mtim.tv_nsec};
}

}  // namespace thimble
