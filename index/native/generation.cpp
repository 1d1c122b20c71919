#include "index/native/generation.hpp"

#include <algorithm>
#include <cstring>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

constexpr uint64_t kHeaderBytes = 4096;
constexpr uint64_t kLaneSlots = 65536;
constexpr char kMagic[8] = "kvatlas";
constexpr uint64_t kStepBytes = 1 << 20;  // files grow in these
constexpr uint64_t kZeroedBytes = 32 << 10;  // and memory used again is zeroed in these: what is zeroed is soon written, while it is near

constexpr uint64_t kHugeFromBytes = 4 << 20;

struct Layout {
  uint64_t lanes, phys, slots, arena;
};

Layout layout_of(uint64_t n_slots) {
  const uint64_t lanes = kHeaderBytes;
  const uint64_t phys = lanes + kLaneSlots * sizeof(uint32_t);
  const uint64_t slots = phys + kLaneSlots * sizeof(uint16_t);
  return {lanes, phys, slots, slots + n_slots * sizeof(Slot)};
}

}  // namespace

Generation::Generation(Region region) : region_(std::move(region)) {
  const GenerationHeader& h = header();
  n_homes_ = h.n_homes;
  n_slots_ = h.n_slots;
  lanes_ = reinterpret_cast<uint32_t*>(region_.data() + h.lanes_offset);
  phys_of_ = reinterpret_cast<uint16_t*>(region_.data() + h.phys_offset);
  slots_ = reinterpret_cast<Slot*>(region_.data() + h.slots_offset);
  arena_ = region_.data() + h.arena_offset;
}

Generation Generation::create(const std::string& path, uint64_t incarnation, uint64_t number,
                              uint64_t n_homes, uint64_t arena_reserve_bytes) {
  const uint64_t reserve = layout_of(slots_of(n_homes)).arena + arena_reserve_bytes;
  return lay_out(path.empty() ? Region::anonymous(reserve) : Region::create(path, reserve), incarnation, number, n_homes, reserve);
}

Generation Generation::create_in(Region spare, uint64_t number, uint64_t n_homes, uint64_t arena_reserve_bytes) {
  const uint64_t arena = layout_of(slots_of(n_homes)).arena;
  if (spare.reserved_bytes() < arena + arena_reserve_bytes) return create("", 0, number, n_homes, arena_reserve_bytes);
  spare.keep_written(arena);
  return lay_out(std::move(spare), 0, number, n_homes, arena + arena_reserve_bytes);
}

Generation Generation::lay_out(Region region, uint64_t incarnation, uint64_t number, uint64_t n_homes, uint64_t reserve) {
  const uint64_t n_slots = slots_of(n_homes);
  const Layout layout = layout_of(n_slots);
  region.back(0, layout.slots);  // slots and sets follow as they are written
  GenerationHeader header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kFormatVersion;
  header.header_bytes = kHeaderBytes;
  header.incarnation = incarnation;
  header.generation = number;
  header.reserve_bytes = reserve;
  header.n_homes = n_homes;
  header.n_slots = n_slots;
  header.lanes_offset = layout.lanes;
  header.phys_offset = layout.phys;
  header.slots_offset = layout.slots;
  header.arena_offset = layout.arena;
  header.arena_bytes = 8;  // set 0 is the empty set
  std::memcpy(region.data(), &header, sizeof header);
  if (n_slots * sizeof(Slot) >= kHugeFromBytes) region.prefer_huge_pages(layout.slots, layout.arena);
  Generation generation(std::move(region));
  generation.back_arena(header.arena_bytes);
  return generation;
}

Generation Generation::open(const std::string& path, uint64_t incarnation, uint64_t number) {
  Region region = Region::open(path, layout_of(0).arena);
  GenerationHeader h;
  std::memcpy(&h, region.data(), sizeof h);
  auto refuse = [&](const std::string& what) -> Error { return Error(ErrorKind::table_file, path + ": " + what); };
  if (std::memcmp(h.magic, kMagic, sizeof kMagic) != 0) throw refuse("not a kvatlas table");
  if (h.version != kFormatVersion)
    throw refuse("expected table format version " + std::to_string(kFormatVersion) + ", got " + std::to_string(h.version) + ": another release wrote it");
  if (h.incarnation != incarnation || h.generation != number)
    throw refuse("belongs to another incarnation of its writer");
  constexpr uint64_t kReserveMax = 1ull << 46;
  const Layout expected = layout_of(h.n_slots);
  if (h.n_homes == 0 || h.n_homes > kReserveMax / sizeof(Slot) || h.n_slots != slots_of(h.n_homes) || h.reserve_bytes > kReserveMax ||
      h.lanes_offset != expected.lanes || h.phys_offset != expected.phys ||
      h.slots_offset != expected.slots || h.arena_offset != expected.arena ||
      h.arena_bytes > h.reserve_bytes || h.arena_offset + h.arena_bytes > h.reserve_bytes ||
      h.arena_offset + h.arena_bytes > region.file_bytes())
    throw refuse("its header contradicts itself or the file is cut short");
  region.widen(h.reserve_bytes);
  return Generation(std::move(region));
}

void Generation::back_slots(uint64_t n) {
  if (n <= backed_slots_) return;
  const uint64_t step = (region_.is_file() ? kStepBytes : kZeroedBytes) / sizeof(Slot);
  const uint64_t target = std::min(n_slots_, (n + step - 1) / step * step);
  const uint64_t offset = header().slots_offset;
  region_.back(offset + backed_slots_ * sizeof(Slot), offset + target * sizeof(Slot));
  backed_slots_ = target;
}

void Generation::back_arena(uint64_t bytes) {
  if (bytes <= backed_arena_) return;
  const uint64_t room = region_.reserved_bytes() - header().arena_offset;
  const uint64_t target = std::max(bytes, std::min(room, (bytes + kStepBytes - 1) / kStepBytes * kStepBytes));
  region_.back(header().arena_offset + backed_arena_, header().arena_offset + target);
  backed_arena_ = target;
}

uint64_t Generation::slot_bytes() const {
  return std::max<uint64_t>(header().slots_offset + backed_slots_ * sizeof(Slot), region_.written_bytes());
}

Region Generation::release() {
  region_.note_written(header().arena_offset + header().arena_bytes);
  return std::move(region_);
}

}  // namespace kvatlas
