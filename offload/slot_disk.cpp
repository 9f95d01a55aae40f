#include "offload/slot_disk.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
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
    if (keys_[i].passing) {
      if (!spill_) spill_.emplace(files_.directories(), files_.options().rates);
      if (keys_[i].bytes > 0) {
        const SpillFiles::Place place = spill_->take(keys_[i].bytes);
        kept_[i].offset = place.begin;
        kept_[i].disk = place.disk;
      }
      kept_[i].now.file = kSpill;
      continue;
    }
    const Extent* extent = files_.layout().find(keys_[i].name);
    if (extent == nullptr || extent->bytes != keys_[i].bytes)
      throw_user("{}: the files have no room for {} bytes of '{}'",
                 files_.options().directory.string(), keys_[i].bytes, keys_[i].name);
    kept_[i].offset = extent->offset;
    kept_[i].disk = files_.disk_of(*extent);
  }
}

void SlotDisk::start_new() {
  remove_commits_after(files_.options().directory, options_.files.rank, 0);
  files_.remove_others();
  for (int i = 0; i < options_.slots; ++i) files_.add();
  place_keys();
  settle_files();
}

void SlotDisk::recover(const CommitRecord& record) {
  const std::string directory = files_.options().directory.string();
  if (record.identity != options_.identity)
    throw_user("{}: it holds the state of another run, '{}'", directory, record.identity);
  if (record.torn)
    throw_user(
        "{}: a step after step {} was changing the state in place, and did not end: the "
        "state is lost",
        directory, record.step);
  std::vector<bool> needed(record.files.size());
  for (const CommitRecord::Key& saved : record.keys) {
    if (saved.file >= 0) needed.at(static_cast<std::size_t>(saved.file)) = true;
  }
  files_.open(record.files, needed);
  if (files_.layout_checksum() != record.layout)
    throw_user("{}/layout-{}.json: it is not the layout of the state", directory,
               options_.files.rank);
  kept_.assign(keys_.size(), {});
  place_keys();
  record_ = record;
  for (const CommitRecord::Key& saved : record.keys) {
    const auto key = std::find_if(keys_.begin(), keys_.end(),
                                  [&](const DiskKey& k) { return k.name == saved.name; });
    if (key == keys_.end() || key->bytes != saved.bytes)
      throw_user("{}: it holds '{}' of {} bytes, which this job does not have", directory,
                 saved.name, saved.bytes);
    Kept& kept = kept_[static_cast<std::size_t>(key - keys_.begin())];
    kept.exists = true;
    kept.now.file = saved.file;
    for (const ChecksumRun& run : saved.runs) kept.now.runs.put(run);
  }
  record_.keys.clear();
  remove_commits_after(files_.options().directory, options_.files.rank, record_.generation);
  settle_files();
}

bool SlotDisk::is_direct() const {
  for (int i = 0; i < files_.count(); ++i) {
    for (int disk = 0; files_.is_there(i) && disk < files_.disks(); ++disk) {
      if (!takes_blocks(files_.direct(i, disk))) return false;
    }
  }
  return true;
}

std::int64_t SlotDisk::room(const KeyRange& range) const {
  return up(position(range.key, range.end)) - down(position(range.key, range.begin));
}

void SlotDisk::create(int key) {
  if (about(key).passing) return;
  Kept& k = kept(key);
  k.exists = true;
  if (files_.count() == 0) return;  // not started: there is nothing yet that it could replace
  // What is committed stays where it is: the new contents are written elsewhere.
  const int file = file_to_write(k);
  if (file == k.now.file) make_torn();
  k.pending = true;
  k.next = {.file = file, .runs = {}};
  k.now.runs = {};
}

void SlotDisk::erase(int key) {
  Kept& k = kept(key);
  k.exists = false;
  if (files_.count() == 0) return;
  // Until the next commit its file remains the one that must not be written.
  k.pending = true;
  k.next = {};
  k.now.runs = {};
}

std::vector<SlotDisk::Source> SlotDisk::sources(const KeyRange& range) const {
  const Kept& k = kept(range.key);
  const DiskKey& key = about(range.key);
  TH_CHECK((k.exists || key.passing) && range.begin >= 0 && range.end <= key.bytes,
           "bytes {} to {} of '{}'", range.begin, range.end, key.name);
  std::vector<Source> found;
  const auto add = [&](int file, std::int64_t begin, std::int64_t end) {
    if (!found.empty() && found.back().file == file && found.back().end == begin) {
      found.back().end = end;
    } else {
      found.push_back({file, begin, end});
    }
  };
  const int before = k.now.runs.empty() ? kNowhere : k.now.file;
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
  if (is_aligned(range) && from.size() == 1 && from[0].file != kNowhere &&
      takes_blocks(direct(from[0].file, range.key))) {
    const std::int64_t begin = down(first), end = up(position(range.key, range.end));
    parts.push_back(engine_.start_read(direct(from[0].file, range.key), begin,
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
    if (s.file == kNowhere) {
      std::memset(part.data(), 0, part.size());
      continue;
    }
    parts.push_back(
        engine_.start_read(cached(s.file, range.key), position(range.key, s.begin), part));
    traffic_.read += static_cast<std::int64_t>(part.size());
  }
  return parts;
}

// Reads a whole run into the scratch memory and checks it.
std::span<std::byte> SlotDisk::read_run(int key, int file, const ChecksumRun& run) {
  const std::span<std::byte> bytes = scratch_.subspan(0, size_of(run.begin, run.end));
  engine_.read(cached(file, key), position(key, run.begin), bytes);
  traffic_.read += run.end - run.begin;
  ChecksumRun now = run;
  checksum_runs({&now, 1}, bytes.data(), run.begin);
  if (now.crc != run.crc) {
    throw_system(
        "{}: bytes {} to {}, of '{}', are not what was written: the disk or the memory "
        "has changed them; if this comes again, go on from a checkpoint (--resume-from), or start "
        "anew (--fresh)",
        cached(file, key).path().string(), position(key, run.begin), position(key, run.end),
        about(key).name);
  }
  return bytes;
}

void SlotDisk::check_read(const KeyRange& range, std::byte* at) {
  const Kept& k = kept(range.key);
  for (const Source& s : sources(range)) {
    if (s.file == kNowhere) continue;
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
  CommitRecord torn = record_;
  ++torn.generation;
  torn.torn = true;
  write_commit(files_.options().directory, options_.files.rank, torn);
  torn_ = true;
}

SlotDisk::Place& SlotDisk::place_to_write(int key) {
  Kept& k = kept(key);
  if (about(key).passing) return k.now;
  TH_CHECK(k.exists);
  if (!k.pending) {
    const int file = file_to_write(k);
    const bool in_place = file == k.now.file;
    if (in_place) make_torn();
    k.pending = true;
    k.next = {.file = file, .runs = {}};
    if (in_place) std::swap(k.next.runs, k.now.runs);
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
  const bool in_place = about(range.key).passing || (!k.pending && options_.slots == 1);
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
  std::vector<ChecksumRun> runs = cut_into_runs(range.begin, range.end, kept(range.key).offset);
  checksum_runs(runs, at, range.begin);
  split_cut_runs(range.key, place, runs);
  for (const ChecksumRun& run : runs) place.runs.put(run);
  const std::int64_t first = position(range.key, range.begin),
                     last = position(range.key, range.end);
  traffic_.written += range.bytes();
  if (!is_aligned(range) || !takes_blocks(direct(place.file, range.key))) {
    parts.push_back(engine_.start_write(cached(place.file, range.key), first,
                                        {at, static_cast<std::size_t>(range.bytes())}));
    return parts;
  }
  const std::int64_t begin = std::min(up(first), last), end = std::max(begin, down(last));
  const auto bytes = [&](std::int64_t from, std::int64_t to) {
    return std::span<const std::byte>(at + (from - first), size_of(from, to));
  };
  if (begin > first)
    parts.push_back(engine_.start_write(cached(place.file, range.key), first, bytes(first, begin)));
  if (end > begin)
    parts.push_back(engine_.start_write(direct(place.file, range.key), begin, bytes(begin, end)));
  if (last > end)
    parts.push_back(engine_.start_write(cached(place.file, range.key), end, bytes(end, last)));
  return parts;
}

}  // namespace thimble
