from kvatlas.ingest.numbering import CountedNumbers as CountedNumbers
from kvatlas.ingest.numbering import LeasedNumbers as LeasedNumbers
from kvatlas.ingest.numbering import Numbers as Numbers
