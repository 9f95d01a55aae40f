#include "offload/slot_disk.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "core/base/numeric.h"

namespace thimble {
namespace {

std::int64_t down(std::int64_t at) {
  return at / SlotDisk::kBlock * SlotDisk::kBlock;
}
std::int64_t up(std::int64_t at) {
  return round_up(at, SlotDisk::kBlock);
}
bool takes_blocks(const File& file) {
  return file.direct_alignment() > 0 && SlotDisk::kBlock % file.direct_alignment() == 0;
}
std::size_t size_of(std::int64_t begin, std::int64_t end) {
  return static_cast<std::size_t>(end - begin);
}

}  // namespace

SlotDisk::SlotDisk(SlotDiskOptions options, std::vector<DiskKey> keys, FileEngine& engine,
                   std::span<std::byte> scratch)
    : options_(std::move(options)),
      keys_(std::move(keys)),
      engine_(engine),
      scratch_(scratch),
      files_(options_.files),
      kept_(keys_.size()) {
  TH_CHECK(static_cast<std::int64_t>(scratch.size()) >= kScratchBytes);
}

void SlotDisk::place_keys() {
  for (std::size_t i = 0; i < keys_.size(); ++i) {
    const Extent* extent = files_.layout().find(keys_[i].name);
    TH_CHECK(extent != nullptr && extent->bytes == keys_[i].bytes, "no room for '{}'",
             keys_[i].name);
    kept_[i].offset = extent->offset;
  }
}

void SlotDisk::start_new() {
  for (int i = 0; i < options_.slots; ++i) files_.add();
  place_keys();
  settle_files();
}

void SlotDisk::recover(const CommitRecord& record) {
  files_.open(record.files);
  place_keys();
  for (std::size_t i = 0; i < keys_.size(); ++i) erase(static_cast<int>(i));
  record_ = record;
  for (const CommitRecord::Key& saved : record.keys) {
    const auto key = std::find_if(keys_.begin(), keys_.end(),
                                  [&](const DiskKey& k) { return k.name == saved.name; });
    if (key == keys_.end() || key->bytes != saved.bytes)
      throw_user("{}: it holds '{}' of {} bytes, which this job does not have",
                 files_.options().directory.string(), saved.name, saved.bytes);
    Kept& kept = kept_[static_cast<std::size_t>(key - keys_.begin())];
    kept.exists = true;
    kept.now.file = saved.file;
    for (const ChecksumRun& run : saved.runs) kept.now.runs.put(run);
  }
  record_.keys.clear();
  settle_files();
}

std::int64_t SlotDisk::room(const KeyRange& range) const {
  return up(position(range.key, range.end)) - down(position(range.key, range.begin));
}

void SlotDisk::create(int key) {
  Kept& k = kept(key);
  k.exists = true;
  if (files_.count() == 0) return;  // not started: there is nothing yet that it could replace
  // What is committed stays where it is: the new contents are written elsewhere.
  k.pending = true;
  k.next = {.file = file_to_write(k), .runs = {}};
  if (k.next.file == k.now.file) make_torn();
  k.now.runs = {};
  if (options_.slots == 1) k.now = {};
}

void SlotDisk::erase(int key) {
  const std::int64_t offset = kept(key).offset;
  kept(key) = {};
  kept(key).offset = offset;
}

std::vector<SlotDisk::Source> SlotDisk::sources(const KeyRange& range) const {
  const Kept& k = kept(range.key);
  TH_CHECK(k.exists && range.begin >= 0 && range.end <= keys_[static_cast<std::size_t>(range.key)].bytes,
           "bytes {} to {} of '{}'", range.begin, range.end,
           keys_[static_cast<std::size_t>(range.key)].name);
  std::vector<Source> found;
  const auto add = [&](int file, std::int64_t begin, std::int64_t end) {
    if (!found.empty() && found.back().file == file && found.back().end == begin) {
      found.back().end = end;
    } else {
      found.push_back({file, begin, end});
    }
  };
  const int before = k.now.runs.empty() ? -1 : k.now.file;
  if (!k.pending) {
    add(before, range.begin, range.end);
    return found;
  }
  std::int64_t at = range.begin;
  for (const ChecksumRun& run : k.next.runs.in(range.begin, range.end)) {
    if (run.begin > at) add(before, at, run.begin);
    at = std::max(at, run.begin);
    add(k.next.file, at, std::min(run.end, range.end));
    at = std::min(run.end, range.end);
  }
  if (at < range.end) add(before, at, range.end);
  return found;
}

std::vector<Completion> SlotDisk::start_read(const KeyRange& range, std::byte* at) {
  std::vector<Completion> parts;
  if (range.bytes() == 0) return parts;
  const std::vector<Source> from = sources(range);
  const std::int64_t first = position(range.key, range.begin);
  if (from.size() == 1 && from[0].file >= 0 && takes_blocks(files_.direct(from[0].file))) {
    const std::int64_t begin = down(first), end = up(position(range.key, range.end));
    parts.push_back(engine_.start_read(files_.direct(from[0].file), begin,
                                       {at - (first - begin), size_of(begin, end)}));
    traffic_.read += end - begin;
    return parts;
  }
  return start_exact_read(range, at);
}

std::vector<Completion> SlotDisk::start_exact_read(const KeyRange& range, std::byte* at) {
  std::vector<Completion> parts;
  for (const Source& s : sources(range)) {
    const std::span<std::byte> part(at + (s.begin - range.begin), size_of(s.begin, s.end));
    if (s.file < 0) {
      std::memset(part.data(), 0, part.size());
      continue;
    }
    parts.push_back(
        engine_.start_read(files_.cached(s.file), position(range.key, s.begin), part));
    traffic_.read += static_cast<std::int64_t>(part.size());
  }
  return parts;
}

// Reads a whole run into the scratch memory and checks it.
std::span<std::byte> SlotDisk::read_run(int key, int file, const ChecksumRun& run) {
  const std::span<std::byte> bytes = scratch_.subspan(0, size_of(run.begin, run.end));
  engine_.read(files_.cached(file), position(key, run.begin), bytes);
  traffic_.read += run.end - run.begin;
  ChecksumRun now = run;
  checksum_runs({&now, 1}, bytes.data(), run.begin);
  if (now.crc != run.crc) {
    throw_system("{}: bytes {} to {}, of '{}', are not what was written: the disk or the memory "
                 "has changed them",
                 files_.path(file).string(), position(key, run.begin), position(key, run.end),
                 keys_[static_cast<std::size_t>(key)].name);
  }
  return bytes;
}

void SlotDisk::check_read(const KeyRange& range, std::byte* at) {
  const Kept& k = kept(range.key);
  for (const Source& s : sources(range)) {
    if (s.file < 0) continue;
    const Place& place = k.pending && s.file == k.next.file ? k.next : k.now;
    std::vector<ChecksumRun> whole;
    for (const ChecksumRun& run : place.runs.in(s.begin, s.end)) {
      if (run.begin >= s.begin && run.end <= s.end) {
        whole.push_back(run);
        continue;
      }
      const std::span<std::byte> bytes = read_run(range.key, s.file, run);
      const std::int64_t begin = std::max(run.begin, s.begin), end = std::min(run.end, s.end);
      std::memcpy(at + (begin - range.begin), bytes.data() + (begin - run.begin),
                  size_of(begin, end));
    }
    std::vector<ChecksumRun> now = whole;
    checksum_runs(now, at, range.begin);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      // Read again, to tell the disk's fault from the transfer's; it names the place.
      if (now[i] != whole[i]) {
        const auto bytes = read_run(range.key, s.file, whole[i]);
        std::memcpy(at + (whole[i].begin - range.begin), bytes.data(), bytes.size());
      }
    }
  }
}

int SlotDisk::file_to_write(const Kept& key) const {
  for (int i = 0; i < files_.count(); ++i) {
    const bool other = options_.slots == 1 || i != key.now.file;
    if (files_.is_there(i) && writable_[static_cast<std::size_t>(i)] && other) return i;
  }
  throw LogicError("no file to write to");
}

// Before committed bytes are overwritten, the record says that they are.
void SlotDisk::make_torn() {
  if (torn_ || record_.generation == 0) return;
  torn_ = true;
  CommitRecord torn = record_;
  ++torn.generation;
  torn.torn = true;
  write_commit(files_.options().directory, options_.files.rank, torn);
}

SlotDisk::Place& SlotDisk::place_to_write(int key) {
  Kept& k = kept(key);
  TH_CHECK(k.exists);
  if (!k.pending) {
    const int file = file_to_write(k);
    k.pending = true;
    k.next.file = file;
    k.next.runs = {};
    if (file == k.now.file) {
      make_torn();
      k.next.runs = std::exchange(k.now.runs, {});
    }
  }
  return k.next;
}

// Where a run that was written before is cut by new ones, what is left of it gets checksums of its
// own.
void SlotDisk::split_cut_runs(int key, Place& place, std::span<const ChecksumRun> runs) {
  for (const ChecksumRun& run : runs) {
    for (const ChecksumRun& old : place.runs.in(run.begin, run.end)) {
      if (old.begin >= run.begin && old.end <= run.end) continue;
      const std::span<std::byte> bytes = read_run(key, place.file, old);
      std::vector<ChecksumRun> rest;
      const std::int64_t cut = old.begin < run.begin ? run.begin : run.end;
      rest.push_back({old.begin, cut});
      rest.push_back({cut, old.end});
      checksum_runs(rest, bytes.data(), old.begin);
      place.runs.erase(old);
      for (const ChecksumRun& part : rest) place.runs.put(part);
      split_cut_runs(key, place, {&run, 1});
    }
  }
}

bool SlotDisk::would_cut(const KeyRange& range) const {
  const Kept& k = kept(range.key);
  const bool in_place = !k.pending && options_.slots == 1;
  const Place& place = in_place ? k.now : k.next;
  if (!k.pending && !in_place) return false;
  for (const ChecksumRun& run : cut_into_runs(range.begin, range.end, k.offset)) {
    for (const ChecksumRun& old : place.runs.in(run.begin, run.end)) {
      if (old.begin < run.begin || old.end > run.end) return true;
    }
  }
  return false;
}

std::vector<Completion> SlotDisk::start_write(const KeyRange& range, const std::byte* at) {
  std::vector<Completion> parts;
  if (range.bytes() == 0) return parts;
  Place& place = place_to_write(range.key);
  std::vector<ChecksumRun> runs =
      cut_into_runs(range.begin, range.end, kept(range.key).offset);
  checksum_runs(runs, at, range.begin);
  split_cut_runs(range.key, place, runs);
  for (const ChecksumRun& run : runs) place.runs.put(run);
  const std::int64_t first = position(range.key, range.begin), last = position(range.key, range.end);
  traffic_.written += range.bytes();
  if (!takes_blocks(files_.direct(place.file))) {
    parts.push_back(engine_.start_write(files_.cached(place.file), first,
                                        {at, static_cast<std::size_t>(range.bytes())}));
    return parts;
  }
  const std::int64_t begin = std::min(up(first), last), end = std::max(begin, down(last));
  const auto bytes = [&](std::int64_t from, std::int64_t to) {
    return std::span<const std::byte>(at + (from - first), size_of(from, to));
  };
  if (begin > first)
    parts.push_back(engine_.start_write(files_.cached(place.file), first, bytes(first, begin)));
  if (end > begin)
    parts.push_back(engine_.start_write(files_.direct(place.file), begin, bytes(begin, end)));
  if (last > end)
    parts.push_back(engine_.start_write(files_.cached(place.file), end, bytes(end, last)));
  return parts;
}

// The bytes of a key that a step has not written are copied from where they were.
void SlotDisk::fill_gaps(int key) {
  Kept& k = kept(key);
  const std::int64_t bytes = keys_[static_cast<std::size_t>(key)].bytes;
  for (const ChecksumRun& gap : k.next.runs.gaps(0, bytes)) {
    std::vector<ChecksumRun> pieces;
    for (const ChecksumRun& cut : cut_into_runs(gap.begin, gap.end, k.offset)) {
      // By the runs that are there: each is read once.
      for (const ChecksumRun& old : k.now.runs.in(cut.begin, cut.end))
        pieces.push_back({std::max(old.begin, cut.begin), std::min(old.end, cut.end)});
      if (k.now.runs.in(cut.begin, cut.end).empty()) pieces.push_back(cut);
    }
    for (ChecksumRun& piece : pieces) {
      const std::span<std::byte> memory = scratch_.subspan(0, size_of(piece.begin, piece.end));
      const auto old = k.now.runs.in(piece.begin, piece.end);
      if (old.empty()) {
        std::memset(memory.data(), 0, memory.size());
      } else {
        const auto whole = read_run(key, k.now.file, old[0]);
        std::memmove(memory.data(), whole.data() + (piece.begin - old[0].begin), memory.size());
      }
      checksum_runs({&piece, 1}, memory.data(), piece.begin);
      engine_.write(files_.cached(k.next.file), k.offset + piece.begin, memory);
      traffic_.written += static_cast<std::int64_t>(memory.size());
      k.next.runs.put(piece);
    }
  }
}

void SlotDisk::write_record(std::int64_t step, const std::string& note) {
  record_.identity = options_.identity;
  ++record_.generation;
  record_.step = step;
  record_.note = note;
  record_.torn = false;
  record_.files.clear();
  std::vector<int> number(static_cast<std::size_t>(files_.count()), -1);
  for (int i = 0; i < files_.count(); ++i) {
    if (!files_.is_there(i)) continue;
    number[static_cast<std::size_t>(i)] = static_cast<int>(record_.files.size());
    record_.files.push_back(files_.name(i));
  }
  CommitRecord whole = record_;
  for (std::size_t i = 0; i < keys_.size(); ++i) {
    if (!kept_[i].exists) continue;
    const Place& place = kept_[i].pending ? kept_[i].next : kept_[i].now;
    const bool zero = place.runs.empty();
    whole.keys.push_back({.name = keys_[i].name,
                          .bytes = keys_[i].bytes,
                          .file = zero ? -1 : number[static_cast<std::size_t>(place.file)],
                          .runs = place.runs.all()});
  }
  write_commit(files_.options().directory, options_.files.rank, whole);
}

void SlotDisk::commit(std::int64_t step, const std::string& note) {
  std::vector<bool> written(static_cast<std::size_t>(files_.count()));
  for (std::size_t i = 0; i < kept_.size(); ++i) {
    if (!kept_[i].exists || !kept_[i].pending || kept_[i].next.runs.empty()) continue;
    fill_gaps(static_cast<int>(i));
    written[static_cast<std::size_t>(kept_[i].next.file)] = true;
  }
  failpoint("offload.sync");
  for (int i = 0; i < files_.count(); ++i) {
    if (written[static_cast<std::size_t>(i)]) files_.cached(i).data_sync();
  }
  failpoint("offload.sync");
  write_record(step, note);
  files_.options().gather(0);  // nobody overwrites the state before until all have this one
  torn_ = false;
  for (Kept& k : kept_) {
    if (!k.pending) continue;
    k.pending = false;
    k.now = std::exchange(k.next, {});
    if (k.now.runs.empty()) k.now.file = -1;
  }
  settle_files();
}

void SlotDisk::settle_files() {
  const GatherNumbers& gather = files_.options().gather;
  const auto any = [&](bool mine) {
    const std::vector<std::int64_t> all = gather(mine ? 1 : 0);
    return std::count(all.begin(), all.end(), 1) > 0;
  };
  std::vector<bool> holds(static_cast<std::size_t>(files_.count()));
  for (const Kept& k : kept_) {
    if (k.exists && k.now.file >= 0) holds[static_cast<std::size_t>(k.now.file)] = true;
  }
  int spare = 0, full = 0;  // files that may be written: without state, and with some
  writable_.assign(static_cast<std::size_t>(files_.count()), false);
  for (int i = 0; i < files_.count(); ++i) {
    if (!files_.is_there(i)) continue;
    // The first rank gives files other names and takes them away: it knows which have one.
    const bool writable = gather(files_.is_lent(i) ? 0 : 1).front() == 1;
    const bool held = any(holds[static_cast<std::size_t>(i)]);
    if (!held && (!writable || spare + full >= options_.slots)) {
      files_.remove(i);
      continue;
    }
    writable_[static_cast<std::size_t>(i)] = writable;
    if (writable) ++(held ? full : spare);
  }
  // Every key needs a file beside its own.
  if (options_.slots == 1 ? spare + full >= 1 : spare >= 1 || full >= 2) return;
  files_.add();
  writable_.push_back(true);
}

int SlotDisk::gather_in_one_file() {
  std::vector<std::int64_t> bytes(static_cast<std::size_t>(files_.count()));
  std::int64_t all = 0;
  for (std::size_t i = 0; i < kept_.size(); ++i) {
    if (!kept_[i].exists) continue;
    all += keys_[i].bytes;
    if (kept_[i].now.file >= 0) bytes[static_cast<std::size_t>(kept_[i].now.file)] += keys_[i].bytes;
  }
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    // What is lent can be it only as it is.
    if (!files_.is_there(static_cast<int>(i)) || (!writable_[i] && bytes[i] < all)) bytes[i] = -1;
  }
  const auto most = std::max_element(bytes.begin(), bytes.end());
  const int target = static_cast<int>(files_.options().gather(most - bytes.begin()).front());
  bool moved = false;
  for (std::size_t i = 0; i < kept_.size(); ++i) {
    Kept& k = kept_[i];
    if (!k.exists || k.now.file == target || keys_[i].bytes == 0) continue;
    k.pending = moved = true;
    k.next = {.file = target, .runs = {}};
    fill_gaps(static_cast<int>(i));
  }
  const auto any = files_.options().gather(moved ? 1 : 0);
  if (std::count(any.begin(), any.end(), 1) > 0) commit(record_.step, std::string(record_.note));
  return target;
}

std::vector<ChecksumRun> SlotDisk::runs_of_file(int index) const {
  std::vector<ChecksumRun> runs;
  for (const Kept& k : kept_) {
    if (!k.exists || k.now.file != index) continue;
    for (ChecksumRun run : k.now.runs.all())
      runs.push_back({run.begin + k.offset, run.end + k.offset, run.crc});
  }
  return runs;
}

void SlotDisk::remove_files() noexcept {
  files_.remove_all();
  std::error_code ignored;
  for (const std::int64_t parity : {0, 1})
    std::filesystem::remove(commit_path(files_.options().directory, options_.files.rank, parity), ignored);
}

}  // namespace thimble
