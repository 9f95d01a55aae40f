// What happens to the disk between steps: a step becomes the committed one, files come and go.
#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/failpoint.h"
#include "offload/slot_disk.h"

namespace thimble {
namespace {

// Whether any rank says yes; all ranks together.
bool any_rank(const GatherNumbers& gather, bool mine) {
  const std::vector<std::int64_t> all = gather(mine ? 1 : 0);
  return std::count(all.begin(), all.end(), 1) > 0;
}

}  // namespace

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
      const std::span<std::byte> memory =
          scratch_.subspan(0, static_cast<std::size_t>(piece.end - piece.begin));
      const auto old = k.now.runs.in(piece.begin, piece.end);
      if (old.empty()) {
        std::memset(memory.data(), 0, memory.size());
      } else {
        const auto whole = read_run(key, k.now.file, old[0]);
        std::memmove(memory.data(), whole.data() + (piece.begin - old[0].begin), memory.size());
      }
      checksum_runs({&piece, 1}, memory.data(), piece.begin);
      engine_.write(cached(k.next.file, key), k.offset + piece.begin, memory);
      traffic_.written += static_cast<std::int64_t>(memory.size());
      k.next.runs.put(piece);
    }
  }
}

void SlotDisk::write_record(std::int64_t step, const std::string& note) {
  CommitRecord whole{.identity = options_.identity,
                     .generation = record_.generation + 1,
                     .step = step,
                     .torn = false,
                     .note = note,
                     .layout = files_.layout_checksum(),
                     .files = {},
                     .keys = {}};
  std::vector<int> number(static_cast<std::size_t>(files_.count()), -1);
  for (int i = 0; i < files_.count(); ++i) {
    if (!files_.is_there(i)) continue;
    number[static_cast<std::size_t>(i)] = static_cast<int>(whole.files.size());
    whole.files.push_back(files_.name(i));
  }
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
  record_ = std::move(whole);
  record_.keys.clear();
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
    for (int disk = 0; written[static_cast<std::size_t>(i)] && disk < files_.disks(); ++disk)
      files_.cached(i, disk).data_sync();
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
  std::vector<bool> holds(static_cast<std::size_t>(files_.count()));
  for (const Kept& k : kept_) {
    // What is erased, too, until that is committed.
    for (const int file : {k.now.file, k.next.file}) {
      if (file >= 0) holds[static_cast<std::size_t>(file)] = true;
    }
  }
  int spare = 0, full = 0;  // files that may be written: without state, and with some
  writable_.assign(static_cast<std::size_t>(files_.count()), false);
  for (int i = 0; i < files_.count(); ++i) {
    if (!files_.is_there(i)) continue;
    // Ranks may see another name come and go at different times.
    const bool writable = !any_rank(gather, files_.is_lent(i));
    const bool held = any_rank(gather, holds[static_cast<std::size_t>(i)]);
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
    TH_CHECK(!kept_[i].pending, "'{}' has changed since the commit", keys_[i].name);
    if (!kept_[i].exists) continue;
    all += keys_[i].bytes;
    if (kept_[i].now.file >= 0)
      bytes[static_cast<std::size_t>(kept_[i].now.file)] += keys_[i].bytes;
  }
  const GatherNumbers& gather = files_.options().gather;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (!files_.is_there(static_cast<int>(i))) {
      bytes[i] = -1;
      continue;
    }
    // What is lent can be it only as it is, on all ranks.
    const bool lacks = any_rank(gather, bytes[i] < all);
    if (!writable_[i] && lacks) bytes[i] = -1;
  }
  const auto most = std::max_element(bytes.begin(), bytes.end());
  const int target = static_cast<int>(gather(most - bytes.begin()).front());
  bool moved = false;
  for (std::size_t i = 0; i < kept_.size(); ++i) {
    Kept& k = kept_[i];
    if (!k.exists || k.now.file == target || keys_[i].bytes == 0) continue;
    k.pending = moved = true;
    k.next = {.file = target, .runs = {}};
    fill_gaps(static_cast<int>(i));
  }
  if (any_rank(gather, moved)) commit(record_.step, std::string(record_.note));
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

}  // namespace thimble
